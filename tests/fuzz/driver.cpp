// SPDX-License-Identifier: Apache-2.0
// fuzz_readers: mutates the seeds of every reader and checks what the reader makes of them.
//
//   fuzz_readers --keep FILE [--reader NAME] [--seconds S] [--count N] [--seed X] FOLDER...
//   fuzz_readers --replay FILE --reader NAME
//
// FOLDER/<reader's seeds>/ holds the seeds, each a file or a folder with files. Seeds are read as
// they are and then mutated, N times or for S seconds in all. Input i of a reader depends on the
// seed, i and the files alone. What makes a finding is in FILE then, ready to be replayed.
#include <fcntl.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "tests/fuzz/fuzz.hpp"

// A finding that is no exception ends the process too: an allocation that no file of this size can
// call for, and memory that is never given back.
extern "C" char const* __asan_default_options() {
  return "handle_abort=1:max_allocation_size_mb=256:hard_rss_limit_mb=3072:detect_leaks=1";
}
extern "C" char const* __ubsan_default_options() {
  return "print_stacktrace=1:abort_on_error=1";
}
// HDF5 1.10 does not give back an object header whose checksum is wrong.
extern "C" char const* __lsan_default_suppressions() {
  return "leak:libhdf5\n";
}

namespace sdp::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr unsigned k_deadline_seconds = 20;

struct Options {
  std::vector<std::string> folders;
  std::string keep, replay, reader;
  double seconds = 0.0;
  std::uint64_t count = 0;
  std::uint64_t seed = 1;
};

/// The input that is being read, for the handlers that run when the process dies.
std::string g_input;
std::string g_keep;

void keep_input() {
  if (g_keep.empty() || g_input.empty()) return;
  const int file = ::open(g_keep.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  std::size_t done = 0;
  while (done < g_input.size()) {
    const ssize_t put = ::write(file, g_input.data() + done, g_input.size() - done);
    if (put <= 0) break;
    done += static_cast<std::size_t>(put);
  }
  ::close(file);
  std::fprintf(stderr, "the input of %zu bytes is in %s\n", g_input.size(), g_keep.c_str());
}

void on_deadline(int) {
  constexpr char k_text[] = "FINDING: the reader does not come to an end\n";
  (void)!::write(STDERR_FILENO, k_text, sizeof(k_text) - 1);
  std::abort();
}

[[noreturn]] void usage(std::string const& text) {
  std::fprintf(stderr, "fuzz_readers: %s\n", text.c_str());
  std::exit(2);
}

std::string read_file(fs::path const& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) usage("cannot read " + path.string());
  return std::string(std::istreambuf_iterator<char>(in), {});
}

std::vector<fs::path> sorted(fs::path const& folder) {
  std::vector<fs::path> paths;
  for (auto const& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<Bundle> seeds_of(Reader const& reader, std::vector<std::string> const& folders) {
  std::vector<Bundle> seeds;
  for (std::string const& folder : folders) {
    const fs::path own = fs::path(folder) / reader.seeds;
    if (!fs::is_directory(own)) continue;
    for (fs::path const& path : sorted(own)) {
      if (!fs::is_directory(path)) {
        seeds.push_back(unpack(read_file(path), reader.file));
        continue;
      }
      Bundle bundle;
      for (auto const& file : fs::recursive_directory_iterator(path))
        if (file.is_regular_file())
          bundle[file.path().lexically_relative(path).string()] = read_file(file.path());
      seeds.push_back(std::move(bundle));
    }
  }
  if (seeds.empty()) usage(std::string("no seeds for ") + reader.name);
  return seeds;
}

/// One bundle through the reader, with everything in place for the case that it does not return.
Result read(Reader const& reader, Bundle const& bundle) {
  g_input = pack(bundle);
  ::alarm(k_deadline_seconds);
  Result result = reader.run(bundle);
  ::alarm(0);
  return result;
}

void fuzz(Reader const& reader, Options const& options, double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const std::vector<Bundle> seeds = seeds_of(reader, options.folders);
  std::set<std::string> contents;
  for (Bundle const& seed : seeds) {
    Result result = read(reader, seed);
    if (result.accepted) contents.insert(std::move(result.content));
  }
  if (contents.empty()) finding(std::string(reader.name) + ": no seed is a good file");
  std::uint64_t count = 0;
  std::uint64_t accepted = 0;
  std::uint64_t original = 0;
  std::set<std::string> messages;
  while (options.count > 0 ? count < options.count : elapsed() < seconds) {
    std::uint64_t key = options.seed * 0x9e3779b97f4a7c15u + count++;
    for (char const* c = reader.name; *c != '\0'; ++c) key = key * 1099511628211u + *c;
    Random random(key);
    Bundle bundle = seeds[random.below(seeds.size())];
    const bool free = mutate(reader, seeds, bundle, random);
    const Result result = read(reader, bundle);
    if (result.accepted) {
      ++accepted;
      const bool known = contents.count(result.content) > 0;
      original += known;
      if (!known && !free) finding("a changed file was accepted with other content");
    } else {
      std::string kind;  // a message without its numbers and names
      for (char c : result.error)
        if (std::isalpha(static_cast<unsigned char>(c)) || c == ' ') kind += c;
      messages.insert(kind.substr(0, 120));
    }
  }
  std::printf(
      "%-18s %8llu inputs, %8llu refused in %5zu wordings, %7llu accepted, of these %7llu "
      "with the content of a seed, %6.1f s\n",
      reader.name, static_cast<unsigned long long>(count),
      static_cast<unsigned long long>(count - accepted), messages.size(),
      static_cast<unsigned long long>(accepted), static_cast<unsigned long long>(original),
      elapsed());
  std::fflush(stdout);
  if (count < 50 || accepted == count)
    finding(std::string(reader.name) + ": too few inputs, or none was refused");
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      options.folders.push_back(name);
      continue;
    }
    if (i + 1 == argc) usage(name + " needs a value");
    const std::string value = argv[++i];
    if (name == "--keep")
      options.keep = value;
    else if (name == "--replay")
      options.replay = value;
    else if (name == "--reader")
      options.reader = value;
    else if (name == "--seconds")
      options.seconds = std::strtod(value.c_str(), nullptr);
    else if (name == "--count")
      options.count = std::strtoull(value.c_str(), nullptr, 10);
    else if (name == "--seed")
      options.seed = std::strtoull(value.c_str(), nullptr, 10);
    else
      usage("unknown option " + name);
  }
  return options;
}

int run(Options const& options) {
  g_keep = options.keep;
  __sanitizer_set_death_callback(keep_input);
  ::signal(SIGALRM, on_deadline);
  std::vector<Reader> chosen;
  for (Reader const& reader : readers())
    if (options.reader.empty() || options.reader == reader.name) chosen.push_back(reader);
  if (chosen.empty()) usage("there is no reader " + options.reader);
  if (!options.replay.empty()) {
    if (chosen.size() != 1) usage("--replay needs --reader");
    const Result result = read(chosen[0], unpack(read_file(options.replay), chosen[0].file));
    std::printf("%s\n", result.accepted ? "accepted" : result.error.c_str());
    return 0;
  }
  if (options.count == 0 && options.seconds <= 0.0) usage("--count or --seconds is missing");
  std::printf("seed %llu\n", static_cast<unsigned long long>(options.seed));
  for (Reader const& reader : chosen)
    fuzz(reader, options, options.seconds / static_cast<double>(chosen.size()));
  g_input.clear();
  std::printf("no finding\n");
  return 0;
}

}  // namespace
}  // namespace sdp::fuzz

int main(int argc, char** argv) {
  return sdp::fuzz::run(sdp::fuzz::parse(argc, argv));
}
