// SPDX-License-Identifier: Apache-2.0
#include "config/load.hpp"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/config/decks.hpp"

namespace sdp::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

/// A new folder that goes away with the test.
class DeckFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "sdp_config_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    m_folder = pattern;
  }
  void TearDown() override { fs::remove_all(m_folder); }
  std::string write(std::string const& text) const {
    const auto path = m_folder / "deck.toml";
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  fs::path m_folder;
};

TEST_F(DeckFile, LoadsWithOverridesAndRefusals) {
  const std::string path = write(llama_deck());
  EXPECT_EQ(load_deck(path, {"train.steps=7"}, {}).train.steps, 7);
  EXPECT_THAT(error_of([&] {
                load_deck(path, {"run.precision=fp64", "system.gradient_wire=bf16"}, {});
              }),
              HasSubstr(path + ": system.gradient_wire is \"bf16\", which is not available"));
  EXPECT_THAT(error_of([&] { load_deck(path, {"train.steps=0"}, {}); }),
              HasSubstr("command line: train.steps is 0"));
}

TEST_F(DeckFile, NamesWhatCannotBeRead) {
  const std::string missing = (m_folder / "none.toml").string();
  EXPECT_EQ(error_of([&] { load_deck(missing, {}, {}); }),
            missing + ": cannot read the deck: No such file or directory");
  EXPECT_THAT(error_of([&] { load_deck(m_folder.string(), {}, {}); }),
              HasSubstr(m_folder.string() + ": a folder was given, but a deck is a TOML file"));
  EXPECT_THAT(error_of([&] { load_deck(write("") + "/x", {}, {}); }), HasSubstr("Not a directory"));
  EXPECT_THAT(error_of([&] { load_deck("", {}, {}); }), HasSubstr("no deck was named"));
  EXPECT_THAT(error_of([&] { load_deck(write(""), {}, {}); }), HasSubstr("model.kind is missing"));
  EXPECT_THAT(error_of([&] { load_deck(write(std::string(17 << 20, '#')), {}, {}); }),
              HasSubstr("larger than 16 MiB"));
  fs::permissions(write(llama_deck()), fs::perms::none);
  if (geteuid() != 0) {
    EXPECT_THAT(error_of([&] { load_deck((m_folder / "deck.toml").string(), {}, {}); }),
                HasSubstr("Permission denied"));
  }
}

TEST(Load, DefaultsOfLlama) {
  const Config c = parse(llama_deck(), {}, {.ranks = 2});
  EXPECT_EQ(c.run.name, "run");
  EXPECT_EQ(c.run.seed, 1u);
  EXPECT_EQ(c.run.precision, Precision::fp32);
  EXPECT_TRUE(c.run.deterministic);
  EXPECT_EQ(c.model.llama.num_kv_heads, 4);
  EXPECT_EQ(c.model.llama.head_dim, 12);
  EXPECT_EQ(c.model.llama.max_seq_len, 16);
  EXPECT_EQ(c.model.llama.rope_theta, 10000.0);
  EXPECT_EQ(c.model.llama.rms_norm_eps, 1e-5);
  EXPECT_FALSE(c.model.llama.tie_embeddings);
  EXPECT_EQ(c.model.llama.init_std, 0.02);
  EXPECT_EQ(c.model.recompute, Recompute::none);
  EXPECT_EQ(c.model.init_from, "");
  EXPECT_EQ(c.data.format, TokenFormat::automatic);
  EXPECT_THAT(c.data.train, ElementsAre("train*.bin"));
  EXPECT_TRUE(c.data.val.empty());
  EXPECT_EQ(c.train.micro_batch, 4);
  EXPECT_EQ(c.train.eval_every, 0);
  EXPECT_EQ(c.train.eval_batches, 0);
  EXPECT_EQ(c.train.log_every, 10);
  EXPECT_EQ(c.train.match, Match::steps);
  EXPECT_EQ(c.train.label_smoothing, 0.0);
  EXPECT_EQ(c.train.max_nonfinite, 10);
  EXPECT_EQ(c.optimizer.kind, OptimizerKind::adamw);
  EXPECT_EQ(c.optimizer.lr, 6e-4);
  EXPECT_EQ(c.optimizer.beta1, 0.9);
  EXPECT_EQ(c.optimizer.beta2, 0.95);
  EXPECT_EQ(c.optimizer.eps, 1e-8);
  EXPECT_EQ(c.optimizer.weight_decay, 0.1);
  EXPECT_EQ(c.optimizer.decay, Decay::matrices);
  EXPECT_EQ(c.optimizer.grad_clip, 1.0);
  EXPECT_EQ(c.optimizer.sharding, Sharding::none);
  EXPECT_EQ(c.schedule.kind, ScheduleKind::cosine);
  EXPECT_EQ(c.schedule.warmup_steps, 0);
  EXPECT_EQ(c.schedule.final_ratio, 0.1);
  EXPECT_EQ(c.schedule.decay_fraction, 0.2);
  EXPECT_EQ(c.sdp.regime, Regime::none);
  EXPECT_EQ(c.sdp.level, Level::block);
  EXPECT_EQ(c.sdp.coverage, 1.0);
  EXPECT_EQ(c.sdp.subnetworks, 2);
  EXPECT_EQ(c.sdp.design, Design::automatic);
  EXPECT_EQ(c.sdp.placement, Placement::round_robin);
  EXPECT_EQ(c.sdp.mask_seed, 1u);
  EXPECT_EQ(c.sdp.block_unit, BlockUnit::sublayer);
  EXPECT_EQ(c.sdp.forward_scale, ForwardScale::automatic);
  EXPECT_EQ(c.sdp.hash_every, 100);
  EXPECT_EQ(c.checkpoint.every_steps, 0);
  EXPECT_TRUE(c.checkpoint.at_end);
  EXPECT_EQ(c.checkpoint.keep, 2);
  EXPECT_EQ(c.checkpoint.files, 1);
  EXPECT_FALSE(c.checkpoint.async);
  EXPECT_EQ(c.checkpoint.resume, "auto");
  EXPECT_EQ(c.system.comm, Transport::automatic);
  EXPECT_EQ(c.system.reduction, Reduction::exchange);
  EXPECT_EQ(c.system.gradient_wire, WireType::fp32);
  EXPECT_EQ(c.system.gpu_aware_mpi, Toggle::automatic);
  EXPECT_EQ(c.system.node_memory, Toggle::automatic);
  EXPECT_EQ(c.system.ranks_per_node, 0);
  EXPECT_EQ(c.system.bucket_mb, 64);
  EXPECT_EQ(c.system.watchdog_seconds, 600);
  EXPECT_EQ(c.system.max_walltime, 0);
}

TEST(Load, DefaultsOfResnet) {
  const Config c = parse(resnet_deck());
  EXPECT_EQ(c.model.resnet.num_classes, 10);
  EXPECT_EQ(c.model.resnet.in_channels, 3);
  EXPECT_EQ(c.model.resnet.width, 64);
  EXPECT_TRUE(c.data.augment);
  EXPECT_EQ(c.train.bn_batches, 64);
  EXPECT_EQ(c.optimizer.kind, OptimizerKind::sgd);
  EXPECT_EQ(c.optimizer.lr, 0.1);
  EXPECT_EQ(c.optimizer.weight_decay, 5e-4);
  EXPECT_EQ(c.optimizer.decay, Decay::all);
  EXPECT_EQ(c.optimizer.momentum, 0.9);
  EXPECT_FALSE(c.optimizer.nesterov);
  EXPECT_EQ(c.optimizer.grad_clip, 0.0);
  EXPECT_EQ(c.schedule.final_ratio, 0.0);
}

TEST(Load, DefaultsFollowOtherKeysAndTheLaunch) {
  EXPECT_EQ(parse(llama_deck(), {}, {.gpu = true}).run.precision, Precision::bf16);
  EXPECT_EQ(parse(resnet_deck(), {}, {.gpu = true}).run.precision, Precision::bf16);
  EXPECT_EQ(parse(llama_deck(), {"run.precision=fp64"}, {.gpu = true}).run.precision,
            Precision::fp64);
  EXPECT_EQ(parse(llama_deck({{"train.global_batch", "48"}}), {}, {.ranks = 12}).sdp.subnetworks,
            8);
  EXPECT_EQ(parse(llama_deck(), {"run.seed=7"}).sdp.mask_seed, 7u);
  EXPECT_EQ(parse(llama_deck(), {"run.seed=7", "sdp.mask_seed=3"}).sdp.mask_seed, 3u);
  EXPECT_EQ(parse(llama_deck(), {"model.max_seq_len=64"}).model.llama.max_seq_len, 64);
  EXPECT_EQ(parse(llama_deck(), {"model.num_heads=5", "model.head_dim=6"}).model.llama.num_kv_heads,
            5);
  // Rate and decay follow the update rule, clipping and the last rate follow the model.
  const Config sgd = parse(llama_deck(), {"optimizer.kind=sgd"});
  EXPECT_EQ(sgd.optimizer.lr, 0.1);
  EXPECT_EQ(sgd.optimizer.weight_decay, 5e-4);
  EXPECT_EQ(sgd.optimizer.decay, Decay::all);
  EXPECT_EQ(sgd.optimizer.grad_clip, 1.0);
  EXPECT_EQ(sgd.schedule.final_ratio, 0.1);
}

TEST(Load, OverridesWinAndMayBePlainText) {
  const Config c = parse(
      llama_deck({{"optimizer.lr", "0.5"}, {"train.log_every", "\"wrong, but overridden\""}}),
      {"optimizer.lr=1", "sdp.coverage=0.25", "train.steps = 100", "data.train=[\"a*.bin\", 'b']",
       "run.name=long run #2", "run.out_dir=/tmp/a b", "model.init_from=", "train.log_every=3",
       "model.tie_embeddings=true", "model.vocab_size=0x100", "train.steps=101",
       "data.tokenizer=\"q\\\"uote\"", "sdp.mask_file=a=b"});
  EXPECT_EQ(c.optimizer.lr, 1.0);
  EXPECT_EQ(c.sdp.coverage, 0.25);
  EXPECT_EQ(c.train.steps, 101);
  EXPECT_THAT(c.data.train, ElementsAre("a*.bin", "b"));
  EXPECT_EQ(c.run.name, "long run #2");
  EXPECT_EQ(c.run.out_dir, "/tmp/a b");
  EXPECT_EQ(c.train.log_every, 3);
  EXPECT_TRUE(c.model.llama.tie_embeddings);
  EXPECT_EQ(c.model.llama.vocab_size, 256);
  EXPECT_EQ(c.data.tokenizer, "q\"uote");
  EXPECT_EQ(c.sdp.mask_file, "a=b");
}

TEST(Load, ResolvedDeckReadsBackTheSame) {
  const std::vector<std::string> llama_overrides[] = {
      {},
      {"optimizer.lr=0.1", "optimizer.eps=1e-300", "optimizer.weight_decay=0.30000000000000004",
       "model.rope_theta=500000", "run.seed=9007199254740992", "model.head_dim=64",
       "run.name=\"tab\\t quote\\\" back\\\\ line\\n bell\\u0007 del\\u007f \\u00e9\"",
       "data.val=[\"a\", \"b*\"]", "data.format=nanogpt-u16", "train.eval_every=5"},
      {"sdp.regime=backward", "sdp.level=neuron", "sdp.design=orbits", "sdp.placement=node_aligned",
       "sdp.block_unit=layer", "sdp.forward_scale=inverse_keep", "schedule.kind=wsd",
       "system.comm=nccl", "system.gpu_aware_mpi=off", "system.node_memory=on",
       "run.precision=fp64", "checkpoint.async=true", "system.reduction=allreduce",
       "system.gradient_wire=bf16", "optimizer.kind=sgd", "optimizer.sharding=holders",
       "train.match=flops", "model.recompute=block"}};
  for (int ranks : {1, 2, 8})
    for (auto const& overrides : llama_overrides) {
      const Launch launch{.ranks = ranks, .gpu = ranks == 8};
      const Config config = parse(llama_deck(), overrides, launch);
      EXPECT_EQ(parse(to_toml(config), {}, launch), config) << to_toml(config);
      // A stored deck is complete: nothing depends on where it is read.
      EXPECT_EQ(parse(to_toml(config), {}, {.ranks = 3, .training = false}), config);
      EXPECT_EQ(to_toml(config).find("width"), std::string::npos);
    }
  const Config images = parse(resnet_deck(), {"model.width=32", "data.kind=cifar100",
                                              "data.augment=false", "model.num_classes=100"});
  EXPECT_EQ(parse(to_toml(images)), images) << to_toml(images);
  EXPECT_EQ(to_toml(images).find("vocab_size"), std::string::npos);
  Config other = images;
  other.model.resnet.width = 31;
  EXPECT_FALSE(other == images);
  EXPECT_FALSE(parse(to_toml(other)) == images);
}

}  // namespace
}  // namespace sdp::test
