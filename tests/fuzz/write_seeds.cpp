// SPDX-License-Identifier: Apache-2.0
// write_fuzz_seeds FOLDER FILE...: small good files of every format, as the program writes them,
// and the files (decks, and checkpoints of old versions). On several ranks checkpoints in parts
// too.
#include <mpi.h>
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>

#include "checkpoint/convert.hpp"
#include "comm/world.hpp"
#include "tests/checkpoint/resnet_support.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using namespace checkpoint_test;

std::string make(std::string const& folder) {
  fs::create_directories(folder);
  return folder;
}

void write_checkpoints(std::string const& folder) {
  make(folder);
  write_small<float>(folder + "/float32.h5", small_header());
  CheckpointHeader tied = small_header(true);
  tied.deck.clear();
  tied.mask.clear();
  tied.state.best_val_loss.reset();
  write_small<double>(folder + "/float64.h5", tied);
}

/// A part file a rank, the elements cut without regard to rows.
void write_parts(World const& world, std::string const& folder) {
  const CheckpointHeader header = small_header();
  const ParameterTable table(tensors_of(header.model));
  const index_t begin = table.size() * world.rank() / world.size();
  const index_t end = table.size() * (world.rank() + 1) / world.size();
  write_checkpoint<float>(
      &world, folder + "/checkpoint.h5", header,
      {checkpoint_buffer<float>(k_group_model, table, {{begin, end}}, filled<float>(table, 0))},
      world.size());
}

void write_models(std::string const& checkpoint, std::string const& folder) {
  constexpr std::int64_t k_shard_bytes = 4000;
  make(folder);
  export_checkpoint(checkpoint, folder + "/huggingface/bf16", TensorType::bf16, tensors_of);
  export_checkpoint(checkpoint, folder + "/huggingface/f32", TensorType::f32, tensors_of);
  export_checkpoint(checkpoint, folder + "/huggingface_shards/bf16", TensorType::bf16, tensors_of,
                    k_shard_bytes);
  fs::copy(folder + "/huggingface_shards/bf16", folder + "/huggingface/shards",
           fs::copy_options::recursive);
}

/// The safetensors of a ResNet-18, of two types.
void write_resnets(std::string const& folder) {
  const std::string checkpoint = make(folder) + "/checkpoint.h5";
  write_resnet<float>(checkpoint, resnet_header(1));
  export_checkpoint(checkpoint, folder + "/f32", TensorType::f32, resnet_tensors_of);
  export_checkpoint(checkpoint, folder + "/bf16", TensorType::bf16, resnet_tensors_of);
  fs::remove(checkpoint);
}

/// llm.c shards of both kinds and a headerless one, tokens below 300.
void write_shards(std::string const& folder) {
  make(folder);
  constexpr int k_tokens = 100;
  std::string narrow;
  std::string wide;
  for (std::uint32_t i = 0; i < k_tokens; ++i) {
    const std::uint32_t token = i * 7 % 300;
    narrow.append(reinterpret_cast<char const*>(&token), 2);
    wide.append(reinterpret_cast<char const*>(&token), 4);
  }
  const auto header = [](std::int32_t magic, std::int32_t version) {
    std::vector<std::int32_t> words(256, 0);
    words[0] = magic;
    words[1] = version;
    words[2] = k_tokens;
    return std::string(reinterpret_cast<char const*>(words.data()), 1024);
  };
  write_file(folder + "/gpt2.bin", header(20240520, 1) + narrow);
  write_file(folder + "/llama3.bin", header(20240801, 7) + wide);
  write_file(folder + "/nanogpt.bin", narrow);
}

std::string counting(std::size_t count, unsigned modulus) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 7 % modulus);
  return bytes;
}

void write_gzip(std::string const& path, std::string const& bytes) {
  const gzFile file = gzopen(path.c_str(), "wb");
  if (file == nullptr ||
      gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) !=
          static_cast<int>(bytes.size()) ||
      gzclose(file) != Z_OK)
    throw std::runtime_error("cannot write " + path);
}

/// Records of CIFAR-10 and CIFAR-100; images and labels of IDX, plain and compressed.
void write_images(std::string const& folder) {
  make(folder + "/cifar");
  const std::string planes = counting(3072, 251);
  write_file(folder + "/cifar/ten.bin", "\1" + planes + "\2" + planes);
  write_file(folder + "/cifar/hundred.bin", "\1\x10" + planes + "\2\x20" + planes);
  const auto idx = [](std::string const& extents, std::string const& data) {
    std::string bytes("\0\0\x08", 3);
    bytes += static_cast<char>(extents.size());
    for (char extent : extents) bytes += std::string(3, '\0') + extent;
    return bytes + data;
  };
  const std::string images = idx("\x14\x05\x07", counting(20 * 5 * 7, 256));
  const std::string labels = idx("\x14", counting(20, 10));
  write_file(make(folder + "/idx/plain") + "/train-images-idx3-ubyte", images);
  write_file(folder + "/idx/plain/train-labels-idx1-ubyte", labels);
  write_gzip(make(folder + "/idx/packed") + "/train-images-idx3-ubyte.gz", images);
  write_gzip(folder + "/idx/packed/train-labels-idx1-ubyte.gz", labels);
}

void write_all(World const& world, std::string const& folder,
               std::vector<std::string> const& files) {
  const std::string parts = folder + "/checkpoint/parts";
  world.collectively([&] {
    if (!world.is_root()) return;
    fs::remove_all(folder);
    write_checkpoints(folder + "/checkpoint");
    write_models(folder + "/checkpoint/float32.h5", folder);
    write_resnets(folder + "/resnet");
    write_shards(folder + "/token_shard");
    write_images(folder);
    make(folder + "/deck");
    for (std::string const& path : files) {
      const std::string kind = fs::path(path).extension() == ".h5" ? "/checkpoint/" : "/deck/";
      fs::copy_file(path, folder + kind + fs::path(path).filename().string());
    }
    make(parts);
  });
  if (world.size() > 1) write_parts(world, parts);
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  Kokkos::initialize(argc, argv);
  int status = 0;
  try {
    if (argc < 2) throw std::runtime_error("a folder is missing");
    sdp::write_all(sdp::World::from(MPI_COMM_WORLD), argv[1], {argv + 2, argv + argc});
  } catch (std::exception const& error) {
    std::fprintf(stderr, "write_fuzz_seeds: %s\n", error.what());
    status = 1;
  }
  Kokkos::finalize();
  MPI_Finalize();
  return status;
}
