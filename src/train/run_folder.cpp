// SPDX-License-Identifier: Apache-2.0
#include "train/run_folder.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.hpp"
#include "checkpoint/checkpoint.hpp"
#include "config/load.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {
constexpr char const* k_unreadable_suffix = ".unreadable";
}

bool RunFolder::holds_run() const {
  std::error_code ignored;
  return fs::exists(config(), ignored);
}

void RunFolder::check(Config const& config) const {
  const auto refuse = [&](std::string const& why) {
    throw ConfigError("run.out_dir \"" + m_root.string() + "\" " + why);
  };
  std::error_code error;
  const fs::file_status status = fs::status(m_root, error);
  if (fs::exists(status) && !fs::is_directory(status)) refuse("exists and is not a folder");
  if (!fs::exists(status)) {
    // The folder comes later; its nearest existing parent decides whether it can.
    fs::path parent = fs::absolute(m_root, error);
    do {
      if (parent == parent.parent_path()) break;
      parent = parent.parent_path();
    } while (!fs::exists(parent, error));
    if (!fs::is_directory(parent, error))
      refuse("cannot be created: \"" + parent.string() + "\" is not a folder");
    if (::access(parent.c_str(), W_OK | X_OK) != 0)
      refuse("cannot be created in \"" + parent.string() + "\": " + std::strerror(errno));
    return;
  }
  if (::access(m_root.c_str(), W_OK | X_OK) != 0)
    refuse("cannot be written: " + std::string(std::strerror(errno)));
  if (holds_run()) {
    if (config.checkpoint.resume == "never")
      refuse(
          "holds a run already, and checkpoint.resume is \"never\": choose another folder or "
          "\"auto\"");
    return;
  }
  if (!fs::is_empty(m_root, error))
    refuse("holds files but no run (no config.toml): choose an empty or new folder");
}

void RunFolder::create(Config const& config) const {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error)
    throw ConfigError("run.out_dir \"" + m_root.string() +
                      "\" cannot be created: " + error.message());
  write_file(this->config(), to_toml(config));
  // A summary is of a run that ended; this one goes on.
  fs::remove(summary(), error);
}

void RunFolder::set_aside(std::vector<std::string> const& unreadable,
                          std::string const& resumed) const {
  if (unreadable.empty()) return;
  const std::vector<std::string> own = list_checkpoints(checkpoints());
  for (std::string const& path : unreadable) {
    if (std::find(own.begin(), own.end(), path) == own.end()) continue;
    std::error_code ignored;
    fs::rename(path, path + k_unreadable_suffix, ignored);
  }
  write_file(checkpoints() / "latest", fs::path(resumed).filename().string() + "\n");
}

void write_file(fs::path const& path, std::string const& text) {
  const fs::path temporary = path.string() + ".tmp";
  const auto fail = [&](char const* what) {
    const std::string reason = std::strerror(errno);
    ::unlink(temporary.c_str());
    throw DataError(std::string("cannot ") + what + " \"" + path.string() + "\": " + reason);
  };
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) fail("create");
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(file, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int reason = errno;
      ::close(file);
      errno = reason;
      fail("write");
    }
    written += static_cast<std::size_t>(count);
  }
  const bool flushed = ::fsync(file) == 0;
  if (::close(file) != 0 || !flushed) fail("write");
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to");
}

void require_same_run(Config const& started, Config const& now, std::string const& where) {
  const auto same = [&](bool equal, char const* key) {
    if (!equal)
      throw ConfigError(std::string(key) + " differs from the run in \"" + where +
                        "\": model shape, data, seed and batch order cannot change on resume");
  };
  const LlamaConfig &a = started.model.llama, &b = now.model.llama;
  same(started.model.kind == now.model.kind, "model.kind");
  same(a.vocab_size == b.vocab_size, "model.vocab_size");
  same(a.hidden_size == b.hidden_size, "model.hidden_size");
  same(a.intermediate_size == b.intermediate_size, "model.intermediate_size");
  same(a.num_layers == b.num_layers, "model.num_layers");
  same(a.num_heads == b.num_heads, "model.num_heads");
  same(a.num_kv_heads == b.num_kv_heads, "model.num_kv_heads");
  same(a.head_dim == b.head_dim, "model.head_dim");
  same(a.rope_theta == b.rope_theta, "model.rope_theta");
  same(a.rms_norm_eps == b.rms_norm_eps, "model.rms_norm_eps");
  same(a.tie_embeddings == b.tie_embeddings, "model.tie_embeddings");
  same(started.model.resnet == now.model.resnet, "model (num_classes, in_channels or width)");
  same(started.data.augment == now.data.augment, "data.augment");
  same(started.run.seed == now.run.seed, "run.seed");
  // Checkpoints of fp32 and bf16 hold the same: the weights, or the master weights, in fp32.
  const auto is_double = [](Config const& config) {
    return config.run.precision == Precision::fp64;
  };
  same(is_double(started) == is_double(now), "run.precision");
  same(started.data.kind == now.data.kind, "data.kind");
  same(started.data.train == now.data.train, "data.train");
  same(started.train.global_batch == now.train.global_batch, "train.global_batch");
  same(started.train.seq_len == now.train.seq_len, "train.seq_len");
}

}  // namespace sdp
