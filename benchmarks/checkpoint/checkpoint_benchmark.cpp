// SPDX-License-Identifier: Apache-2.0
// Saving and reading a checkpoint against plain parallel I/O of the same bytes; see README.md.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "checkpoint/checkpoint_save.hpp"
#include "checkpoint/file_io.hpp"
#include "comm/mpi_session.hpp"
#include "comm/world.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;

constexpr double k_gib = 1024.0 * 1024.0 * 1024.0;
constexpr char const* k_groups[] = {k_group_model, k_group_exp_avg, k_group_exp_avg_sq};

struct Options {
  double gib = 2.0;
  int files = 4;
  int repeat = 5;
  bool once = false;
  std::string folder = "checkpoint_benchmark.tmp";
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return std::string(++i < argc ? argv[i] : ""); };
    if (word == "--gib")
      options.gib = std::atof(value().c_str());
    else if (word == "--files")
      options.files = std::atoi(value().c_str());
    else if (word == "--repeat")
      options.repeat = std::max(1, std::atoi(value().c_str()));
    else if (word == "--folder")
      options.folder = value();
    else if (word == "--once")
      options.once = true;
    else
      throw ConfigError("unknown option " + word);
  }
  return options;
}

/// A LLaMA of about `parameters` parameters with 24 layers.
LlamaConfig model_of(double parameters) {
  LlamaConfig m;
  m.num_layers = 24;
  m.num_heads = m.num_kv_heads = 16;
  m.vocab_size = 32000;
  m.max_seq_len = 1024;
  for (index_t width = 16;; width += 16) {  // 12 D^2 a layer, F = 8/3 D
    m.hidden_size = width;
    m.intermediate_size = width * 8 / 3;
    m.head_dim = width / 16;
    const double d = static_cast<double>(width);
    if (24 * 12 * d * d + 2 * 32000 * d >= parameters) return m;
  }
}

std::vector<TensorSpec> tensors_of(LlamaConfig const& m) {
  std::vector<TensorSpec> tensors;
  const auto add = [&](std::string const& name, index_t rows, index_t cols) {
    TensorSpec spec;
    spec.name = name;
    spec.shape = {rows, cols};
    spec.rows = rows;
    spec.cols = cols;
    tensors.push_back(spec);
  };
  const index_t d = m.hidden_size;
  add("lm_head.weight", m.vocab_size, d);
  for (index_t i = m.num_layers - 1; i >= 0; --i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (char const* name : {"mlp.down_proj", "mlp.up_proj", "mlp.gate_proj"})
      add(layer + name + ".weight", m.intermediate_size, d);
    for (char const* name : {"o_proj", "v_proj", "k_proj", "q_proj"})
      add(layer + "self_attn." + name + ".weight", d, d);
  }
  add("model.embed_tokens.weight", m.vocab_size, d);
  return tensors;
}

/// Processor time of this process, its threads and the kernel on its behalf.
double cpu_seconds() {
  rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](timeval const& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// What one rank owns: a part of the rows of every tensor, in buffers of that size.
struct State {
  State(World const& world, LlamaConfig const& model) : table(tensors_of(model)) {
    for (int t = 0; t < static_cast<int>(table.tensors().size()); ++t) {
      TensorSpec const& tensor = table.tensors()[t];
      const auto at = [&](int rank) {
        return table.offset(t) + tensor.rows * rank / world.size() * tensor.cols;
      };
      owned.push_back({at(world.rank()), at(world.rank() + 1)});
      elements += owned.back().size();
    }
    for (int g = 0; g < 3; ++g) {
      values.emplace_back("sdp::benchmark::state", elements);
      for (index_t i = 0; i < elements; ++i)
        values[g](i) = 1e-3f * static_cast<float>((i * 2654435761u + g) % 100003);
    }
  }
  std::vector<CheckpointBuffer<float>> buffers() const {
    std::vector<CheckpointBuffer<float>> all;
    for (int g = 0; g < 3; ++g)
      all.push_back(checkpoint_buffer<float>(k_groups[g], table, owned, values[g], true));
    return all;
  }
  std::int64_t bytes() const { return 3 * elements * std::int64_t{sizeof(float)}; }

  ParameterTable table;
  std::vector<IndexRange> owned;
  index_t elements = 0;
  std::vector<View1<float>> values;
};

class Benchmark {
 public:
  Benchmark(World const& world, Options const& options)
      : m_world(world), m_options(options), m_folder(options.folder) {
    m_header.model.llama = model_of(options.gib * k_gib / 12.0);
    m_state.emplace(world, m_header.model.llama);
    m_total = static_cast<double>(world.sum(m_state->bytes()));
    const std::vector<double> shares = world.all_gather(static_cast<double>(m_state->bytes()));
    for (int r = 0; r < world.rank(); ++r) m_begin += static_cast<std::int64_t>(shares[r]);
    if (world.is_root()) fs::create_directories(m_folder);
    world.barrier();
  }
  ~Benchmark() {
    m_world.barrier();
    std::error_code ignored;
    if (m_world.is_root()) fs::remove_all(m_folder, ignored);
  }

  void run() {
    print_head();
    CheckpointCopy<float> copy;
    const int files = std::min(m_options.files, m_world.size());
    for (int round = 0; round < m_options.repeat; ++round) {
      clear();
      timed("write, plain", [&] { write_plainly(); });
      timed("write, checkpoint in 1 file", [&] { save(1); });
      if (!m_options.once && files > 1)
        timed("write, checkpoint in " + std::to_string(files) + " files", [&] { save(files); });
      if (!m_options.once) save_in_background(copy);
      for (char const* cache : {"cold", "warm"}) {
        const bool cold = cache[0] == 'c';
        const std::string end = std::string(", ") + cache;
        drop(cold);
        timed("read, plain" + end, [&] { read_plainly(); });
        drop(cold);
        timed("read, checkpoint of 1 file" + end, [&] { read(1); });
        if (!m_options.once && files > 1) {
          drop(cold);
          timed("read, checkpoint of " + std::to_string(files) + " files" + end,
                [&] { read(files); });
        }
        if (m_options.once) break;
      }
    }
    print_table();
  }

 private:
  struct Row {
    std::vector<double> seconds;
    std::vector<double> cpu;  ///< seconds of processor time, sum over ranks
    double memory = 0;        ///< bytes beside the state, max over ranks and rounds
  };

  std::string plain() const { return m_folder + "/plain.bin"; }
  std::string checkpoint(int files) const {
    return m_folder + "/checkpoint-" + std::to_string(files) + ".h5";
  }

  template <class F>
  void timed(std::string const& what, F&& f) {
    reset_peak_resident();
    const std::int64_t before = resident_bytes();
    m_world.barrier();
    const double cpu = cpu_seconds();
    const Timer timer;
    f();
    const double used = cpu_seconds() - cpu;
    const double seconds = m_world.max(timer.seconds());
    add(what, seconds, used, static_cast<double>(peak_resident_bytes() - before));
  }
  void add(std::string const& what, double seconds, double cpu, double memory) {
    if (!m_rows.count(what)) m_order.push_back(what);
    Row& row = m_rows[what];
    row.seconds.push_back(seconds);
    row.cpu.push_back(m_world.sum(cpu));
    row.memory = std::max(row.memory, m_world.max(memory));
  }

  template <class F>
  void for_pieces(F&& f) const {
    constexpr index_t k_piece = index_t{1} << 21;
    std::int64_t offset = m_begin;
    for (View1<float> const& values : m_state->values)
      for (index_t at = 0; at < m_state->elements; at += k_piece) {
        const std::int64_t bytes = 4 * std::min(k_piece, m_state->elements - at);
        f(offset, values.data() + at, bytes);
        offset += bytes;
      }
  }

  void write_plainly() {
    if (m_world.is_root()) {
      file_io::File file = file_io::File::create(plain());
      file.reserve(static_cast<std::int64_t>(m_total));
    }
    m_world.barrier();
    file_io::File file = file_io::File::open_to_write(plain());
    for_pieces([&](std::int64_t offset, float const* data, std::int64_t bytes) {
      file.write(offset, data, bytes);
    });
    file.sync();
  }
  void read_plainly() {
    const file_io::File file = file_io::File::open(plain());
    for_pieces([&](std::int64_t offset, float* data, std::int64_t bytes) {
      file.read(offset, data, bytes);
    });
  }

  void save(int files) {
    write_checkpoint(&m_world, checkpoint(files), m_header, m_state->buffers(), files);
  }
  void read(int files) {
    const CheckpointReader reader(checkpoint(files));
    for (int g = 0; g < 3; ++g)
      reader.read(k_groups[g], m_state->table, m_state->owned, true, m_state->values[g]);
  }

  /// What training waits for, and the whole of it.
  void save_in_background(CheckpointCopy<float>& copy) {
    const auto buffers = m_state->buffers();
    m_world.barrier();
    const double cpu = cpu_seconds();
    const Timer whole;
    CheckpointSave<float> save(m_world, m_folder + "/run", {1, 1}, m_header, buffers);
    save.write_in_background(buffers, copy);
    double blocked = whole.seconds();
    while (!save.written()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    m_world.barrier();
    const Timer end;
    save.publish();
    blocked += end.seconds();
    add("background save, blocked", m_world.max(blocked), 0, 0);
    add("background save, whole", m_world.max(whole.seconds()), cpu_seconds() - cpu,
        static_cast<double>(m_state->bytes()));
  }

  void clear() {
    m_world.barrier();
    if (m_world.is_root())
      for (auto const& entry : fs::directory_iterator(m_folder)) fs::remove_all(entry.path());
    m_world.barrier();
  }

  /// Drops the pages of all files of the benchmark, or reads them in.
  void drop(bool cold) {
    m_world.barrier();
    if (m_world.is_root()) {
      std::vector<char> buffer(std::size_t{8} << 20);
      for (auto const& entry : fs::recursive_directory_iterator(m_folder)) {
        if (!entry.is_regular_file()) continue;
        const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
        if (cold) ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        while (!cold && ::read(file, buffer.data(), buffer.size()) > 0) {
        }
        ::close(file);
      }
    }
    m_world.barrier();
  }

  void print_head() const {
    if (!m_world.is_root()) return;
    std::printf("%.2f GiB from %d ranks, %zu tensors of %lld parameters, %d round%s\n\n",
                m_total / k_gib, m_world.size(), 3 * m_state->table.tensors().size(),
                static_cast<long long>(m_state->table.size()), m_options.repeat,
                m_options.repeat == 1 ? "" : "s");
    std::fflush(stdout);
  }
  void print_table() const {
    if (!m_world.is_root()) return;
    std::printf(
        "| | seconds: median (least to most) | GiB/s | of plain | processor s | "
        "memory beside the state, MiB a rank |\n|---|---|---|---|---|---|\n");
    double base = 0;
    for (std::string const& what : m_order) {
      Row const& row = m_rows.at(what);
      const auto [least, most] = std::minmax_element(row.seconds.begin(), row.seconds.end());
      const double seconds = median(row.seconds);
      if (what.find("plain") != what.npos) base = seconds;
      std::printf("| %s | %.2f (%.2f to %.2f) | %.2f | %.0f %% | %.2f | %.0f |\n", what.c_str(),
                  seconds, *least, *most, m_total / k_gib / seconds, 100.0 * base / seconds,
                  median(row.cpu), row.memory / (1 << 20));
    }
  }

  World const& m_world;
  Options m_options;
  std::string m_folder;
  CheckpointHeader m_header;
  std::optional<State> m_state;
  double m_total = 0;        // bytes of all ranks
  std::int64_t m_begin = 0;  // byte at which this rank's share of the plain file begins
  std::vector<std::string> m_order;
  std::map<std::string, Row> m_rows;
};

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  const sdp::MpiSession mpi(argc, argv);
  Kokkos::ScopeGuard kokkos(argc, argv);
  try {
    const sdp::World world = sdp::World::from(MPI_COMM_WORLD);
    sdp::Benchmark(world, sdp::parse(argc, argv)).run();
    return 0;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
