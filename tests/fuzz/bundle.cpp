// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "tests/fuzz/fuzz.hpp"

namespace sdp::fuzz {

namespace {

constexpr std::string_view k_magic = "sdp fuzz bundle\n";

/// The text up to the next newline, which is taken off; false where there is none.
bool take_line(std::string_view& bytes, std::string_view& line) {
  const std::size_t end = bytes.find('\n');
  if (end == std::string_view::npos) return false;
  line = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  return true;
}

/// Whether the name stays inside a folder.
bool is_inside(std::string_view name) {
  return !name.empty() && name.size() < 200 && name.front() != '/' && name.back() != '/' &&
         name.find("//") == name.npos && name.find('\0') == name.npos && name.front() != '.' &&
         name.find("/.") == name.npos;
}

namespace fs = std::filesystem;

class Scratch {
 public:
  Scratch() {
    const fs::path memory = "/dev/shm";
    std::error_code error;
    m_folder =
        ((fs::is_directory(memory, error) ? memory : fs::temp_directory_path()) / "sdp-fuzz-XXXXXX")
            .string();
    if (::mkdtemp(m_folder.data()) == nullptr) finding("cannot create " + m_folder);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(m_folder, ignored);
  }
  Scratch(Scratch const&) = delete;
  Scratch& operator=(Scratch const&) = delete;

  std::string const& folder() const { return m_folder; }

 private:
  std::string m_folder;
};

}  // namespace

std::string scratch_folder() {
  static const Scratch scratch;
  return scratch.folder();
}

std::string pack(Bundle const& bundle) {
  std::string bytes(k_magic);
  for (auto const& [name, content] : bundle)
    bytes += name + "\n" + std::to_string(content.size()) + "\n" + content;
  return bytes;
}

Bundle unpack(std::string_view bytes, std::string const& name) {
  Bundle bundle;
  if (bytes.substr(0, k_magic.size()) != k_magic) {
    bundle.emplace(name, bytes);
    return bundle;
  }
  bytes.remove_prefix(k_magic.size());
  std::string_view file;
  std::string_view digits;
  while (take_line(bytes, file) && take_line(bytes, digits)) {
    std::size_t size = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
    if (error != std::errc() || stop != digits.data() + digits.size() || size > bytes.size() ||
        !is_inside(file))
      break;
    bundle.emplace(file, bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  return bundle;
}

void finding(std::string const& text) {
  std::fprintf(stderr, "FINDING: %s\n", text.c_str());
  std::abort();
}

}  // namespace sdp::fuzz
