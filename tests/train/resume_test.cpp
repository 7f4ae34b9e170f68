// SPDX-License-Identifier: Apache-2.0
#include "train/resume.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "tests/train/run_fixture.hpp"
#include "train/arrangement.hpp"
#include "train/run_setup.hpp"
#include "train/worker_state.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Overrides = std::vector<std::string>;

/// The first `ranks` ranks of a world, for them alone.
std::optional<World> first_ranks(World const& world, int ranks) {
  const bool in = world.rank() < ranks;
  MPI_Comm part = MPI_COMM_NULL;
  MPI_Comm_split(world.comm(), in ? 0 : MPI_UNDEFINED, world.rank(), &part);
  if (!in) return std::nullopt;
  std::optional<World> result = World::from(part);
  MPI_Comm_free(&part);
  return result;
}

std::string bytes_of(fs::path const& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Resume : public test::RunFixture {
 protected:
  /// A checkpoint after 5, 10 and 12 updates in the folder `name`.
  void run_with_checkpoints(std::string const& name, Overrides overrides = {}) const {
    overrides.insert(overrides.end(), {"checkpoint.every_steps=5", "checkpoint.keep=9"});
    train(m_world, deck(m_world, name, overrides));
    m_world.barrier();
  }
  /// Takes the last checkpoint, and what else tells of the end of the run, away.
  void forget_end(std::string const& name) const {
    on_root([&] {
      fs::remove(out(name) / "summary.json");
      fs::remove(saved(name, 12));
      point_latest(name, "step-00000010.h5\n");
    });
  }
  template <class F>
  void on_root(F&& f) const {
    m_world.barrier();
    if (m_world.is_root()) f();
    m_world.barrier();
  }
  void point_latest(std::string const& name, std::string const& text) const {
    std::ofstream(out(name) / "checkpoints/latest", std::ios::binary) << text;
  }
  std::string latest(std::string const& name) const {
    return bytes_of(out(name) / "checkpoints/latest");
  }
  fs::path saved(std::string const& name, int step) const {
    return out(name) / "checkpoints" / fmt::format("step-{:08}.h5", step);
  }
  fs::path aside(std::string const& name, int step) const {
    return saved(name, step).string() + ".unreadable";
  }

  /// Flips a bit of the last element of a tensor in a checkpoint.
  static void damage(fs::path const& path, std::string const& group, std::string const& tensor) {
    std::vector<double> values(64);
    {
      const CheckpointReader reader(path.string());
      const index_t size = reader.find(tensor)->elements;
      values.resize(static_cast<std::size_t>(std::min<index_t>(size, 64)));
      const auto count = static_cast<index_t>(values.size());
      reader.read_elements(group, tensor, size - count, count, values.data());
    }
    const std::string pattern(reinterpret_cast<char const*>(values.data()), 8 * values.size());
    const std::string bytes = bytes_of(path);
    const std::size_t at = bytes.find(pattern);
    ASSERT_NE(at, std::string::npos);
    ASSERT_EQ(bytes.find(pattern, at + 1), std::string::npos);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at + pattern.size() - 1));
    file.put(static_cast<char>(pattern.back() ^ 1));
  }
  static void truncate(fs::path const& path) { fs::resize_file(path, fs::file_size(path) / 2); }

  std::vector<int> steps(std::string const& name, char const* event) const {
    std::vector<int> list;
    std::ifstream file(out(name) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const json record = json::parse(line);
      if (record["event"] == event) list.push_back(record["step"]);
    }
    return list;
  }

  /// Trains on, and returns what rank 0 wrote to the terminal as warnings.
  std::string warnings(Config const& config) const {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(train(m_world, config), TrainEnd::finished);
    m_world.barrier();
    const std::string text = ::testing::internal::GetCapturedStderr();
    EXPECT_TRUE(m_world.is_root() || text.empty()) << text;
    return text;
  }
  void expect_error(ExitCode code, std::string const& part, Config const& config) const {
    try {
      train(m_world, config);
      ADD_FAILURE() << "no error";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
      EXPECT_TRUE(m_world.size() == 1 || error.agreed());
    }
    m_world.barrier();
  }
};

/// Damage is found and agreed on in the same way on any number of ranks from two on.
class Damage : public Resume {
 protected:
  void SetUp() override {
    Resume::SetUp();
    if (m_world.size() > 2) GTEST_SKIP() << "on two ranks";
  }
};

constexpr char const* k_down = "model.layers.0.mlp.down_proj.weight";

TEST_F(Damage, FallsBackWhenTheNewestIsDamagedAnywhere) {
  run_with_checkpoints("straight");
  const auto expected = bytes_of(saved("straight", 12));
  const struct {
    char const* name;
    std::function<void(fs::path const&)> damage;
    char const* why;
  } cases[] = {
      {"truncated", truncate, "step-00000010.h5 is damaged or incomplete"},
      {"empty", [](fs::path const& path) { fs::resize_file(path, 0); }, "not an HDF5 file"},
      {"weights", [](fs::path const& path) { damage(path, k_group_model, k_down); },
       "/model/model.layers.0.mlp.down_proj.weight is damaged"},
      {"moment", [](fs::path const& path) { damage(path, k_group_exp_avg_sq, k_down); },
       "/optimizer/exp_avg_sq/model.layers.0.mlp.down_proj.weight is damaged"},
  };
  for (auto const& damaged : cases) {
    SCOPED_TRACE(damaged.name);
    on_root([&] {
      fs::remove_all(out("run"));
      fs::copy(out("straight"), out("run"), fs::copy_options::recursive);
    });
    forget_end("run");
    on_root([&] { damaged.damage(saved("run", 10)); });
    const std::string text = warnings(deck(m_world, "run", {"checkpoint.keep=9"}));
    if (m_world.is_root()) {
      EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
      EXPECT_THAT(text, ::testing::HasSubstr("passed over " + saved("run", 10).string()));
      EXPECT_THAT(text, ::testing::HasSubstr("continued from " + saved("run", 5).string()));
      EXPECT_THAT(text, ::testing::HasSubstr(damaged.why));
    }
    EXPECT_EQ(weights(saved("run", 12)), weights(saved("straight", 12)));
    EXPECT_THAT(steps("run", "train"), ::testing::ElementsAre(3, 6, 9, 12));
    EXPECT_THAT(steps("run", "eval"), ::testing::ElementsAre(12));
    EXPECT_THAT(steps("run", "checkpoint"), ::testing::ElementsAre(5, 12));
    EXPECT_TRUE(fs::exists(aside("run", 10)));
    EXPECT_FALSE(fs::exists(saved("run", 10)));
    EXPECT_EQ(latest("run"), "step-00000012.h5\n");
  }
}

TEST_F(Damage, DamageThatOneRankReadsIsEnough) {
  // Every worker holds a part of its own, so the rows of one tensor are read by few ranks.
  const Overrides overrides{"sdp.regime=forward",
                            "sdp.level=block",
                            "sdp.subnetworks=" + std::to_string(m_world.size()),
                            m_world.size() == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5",
                            "optimizer.sharding=holders",
                            "sdp.remask_every=4"};
  run_with_checkpoints("straight", overrides);
  on_root([&] { fs::copy(out("straight"), out("run"), fs::copy_options::recursive); });
  forget_end("run");
  on_root([&] { damage(saved("run", 10), k_group_exp_avg, k_down); });
  const std::string text = warnings(deck(m_world, "run", overrides));
  if (m_world.is_root()) {
    EXPECT_THAT(text, ::testing::HasSubstr("/optimizer/exp_avg/"));
  }
  EXPECT_EQ(weights(saved("run", 12)), weights(saved("straight", 12)));
}

TEST_F(Damage, NeverStartsAgainByItself) {
  run_with_checkpoints("run");
  forget_end("run");
  on_root([&] {
    truncate(saved("run", 10));
    damage(saved("run", 5), k_group_model, k_down);
  });
  const auto metrics = bytes_of(out("run") / "metrics.jsonl");
  expect_error(ExitCode::data, "no checkpoint of the run in", deck(m_world, "run"));
  expect_error(ExitCode::data, "step-00000010.h5 is damaged or incomplete", deck(m_world, "run"));
  EXPECT_EQ(bytes_of(out("run") / "metrics.jsonl"), metrics);
  EXPECT_TRUE(fs::exists(saved("run", 10)));
  EXPECT_TRUE(fs::exists(saved("run", 5)));

  on_root([&] {
    fs::remove(saved("run", 10));
    fs::remove(saved("run", 5));
  });
  expect_error(ExitCode::data, "latest\" exists, but its folder holds no checkpoint",
               deck(m_world, "run"));
  on_root([&] { fs::remove(out("run") / "checkpoints/latest"); });
  EXPECT_EQ(train(m_world, deck(m_world, "run")), TrainEnd::finished);
  EXPECT_THAT(steps("run", "train"), ::testing::ElementsAre(3, 6, 9, 12));
}

TEST_F(Damage, AnExplicitPathHasNoFallBack) {
  run_with_checkpoints("run");
  forget_end("run");
  on_root([&] { damage(saved("run", 10), k_group_model, k_down); });
  const std::string path = "checkpoint.resume=" + saved("run", 10).string();
  expect_error(ExitCode::data, "step-00000010.h5: dataset /model/", deck(m_world, "run", {path}));
  expect_error(ExitCode::data, "step-00000010.h5: dataset /model/", deck(m_world, "new", {path}));
  EXPECT_FALSE(fs::exists(out("new")));
  EXPECT_EQ(train(m_world, deck(m_world, "new", {"checkpoint.resume=" + saved("run", 5).string()})),
            TrainEnd::finished);
  EXPECT_THAT(steps("new", "train"), ::testing::ElementsAre(6, 9, 12));
}

TEST_F(Damage, ACheckpointOfSomethingElseIsNotPassedOver) {
  run_with_checkpoints("run");
  forget_end("run");
  expect_error(ExitCode::usage, "model.intermediate_size is 32 in the deck, but 24 in",
               deck(m_world, "run", {"model.intermediate_size=32"}));
  expect_error(ExitCode::usage, "has no optimizer/momentum: it was written with another optimizer",
               deck(m_world, "run", {"optimizer.kind=sgd"}));
  EXPECT_TRUE(fs::exists(saved("run", 10)));
}

TEST_F(Damage, LatestSaysWhichAndMayBeAnything) {
  run_with_checkpoints("run");
  forget_end("run");
  const std::string folder = (out("run") / "checkpoints").string();
  const std::string five = saved("run", 5).string(), ten = saved("run", 10).string();
  const auto candidates = [&](std::function<void()> const& change) {
    on_root(change);
    return resume_candidates(folder);
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(candidates([&] { point_latest("run", "step-00000005.h5\n"); }),
              ElementsAre(five, ten));
  EXPECT_THAT(candidates([&] { point_latest("run", "step-00000010.h5"); }), ElementsAre(ten, five));
  for (char const* text : {"step-00000007.h5\n", "", "\n", "../checkpoints/step-00000005.h5\n",
                           "\xff\xfe garbage", "/etc/passwd", "."})
    EXPECT_THAT(candidates([&] { point_latest("run", text); }), ElementsAre(ten, five)) << text;
  EXPECT_THAT(candidates([&] { point_latest("run", std::string(10000, 'x')); }),
              ElementsAre(ten, five));
  EXPECT_THAT(candidates([&] { fs::remove(folder + "/latest"); }), ElementsAre(ten, five));
  EXPECT_THAT(candidates([&] { fs::create_directory(folder + "/latest"); }),
              ElementsAre(ten, five));
  on_root([&] { fs::remove(folder + "/latest"); });
  // A file that is no checkpoint, under its own name: the others are tried.
  EXPECT_EQ(candidates([&] { point_latest("run", "latest\n"); }).size(), 3u);
  EXPECT_EQ(train(m_world, deck(m_world, "run", {"checkpoint.keep=9"})), TrainEnd::finished);
  EXPECT_EQ(latest("run"), "step-00000012.h5\n");
  // An older one that somebody chose.
  forget_end("run");
  on_root([&] { point_latest("run", "step-00000005.h5\n"); });
  EXPECT_EQ(train(m_world, deck(m_world, "run")), TrainEnd::finished);
  EXPECT_THAT(steps("run", "checkpoint"), ElementsAre(5, 12));
  EXPECT_THAT(steps("run", "train"), ElementsAre(3, 6, 9, 12));
}

/// How a run divides its state.
struct Division {
  char const* regime;
  char const* level;
  char const* sharding;
  int ranks_of_a_subnetwork = 1;
  int mask_seed = 1;
  Overrides overrides(int ranks) const {
    const int subnetworks = std::max(1, ranks / ranks_of_a_subnetwork);
    return {std::string("sdp.regime=") + regime,
            std::string("sdp.level=") + level,
            std::string("optimizer.sharding=") + sharding,
            "sdp.neuron_group=4",
            "sdp.subnetworks=" + std::to_string(subnetworks),
            "sdp.mask_seed=" + std::to_string(mask_seed),
            subnetworks == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5"};
  }
};
constexpr Division k_divisions[] = {
    {"none", "block", "none"},
    {"none", "block", "holders"},
    {"backward", "block", "none"},
    {"backward", "block", "holders", 2, 5},
    {"backward", "neuron", "none", 4, 6},
    {"backward", "neuron", "holders"},
    {"forward", "block", "none", 2, 7},
    {"forward", "block", "holders"},
    {"forward", "neuron", "none", 1, 8},
    {"forward", "neuron", "holders", 2, 9},
};

TEST_F(Resume, StateIsTheSameBitForBitOnAnyRanksInAnyDivision) {
  for (char const* kind : {"adamw", "sgd"}) {
    const std::string optimizer = std::string("optimizer.kind=") + kind;
    Overrides first = k_divisions[9].overrides(m_world.size());
    first.push_back(optimizer);
    const std::string run = std::string("run-") + kind;
    train(m_world, deck(m_world, run, first));
    m_world.barrier();
    // Each division reads what the one before it has written.
    const std::string original = bytes_of(saved(run, 12));
    std::string previous = saved(run, 12).string();
    int written = 0;
    for (int ranks : {8, 1, 4, 2}) {
      if (ranks > m_world.size()) continue;
      const std::optional<World> world = first_ranks(m_world, ranks);
      for (Division const& division : k_divisions) {
        SCOPED_TRACE(fmt::format("{} {} {} {} on {}", kind, division.regime, division.level,
                                 division.sharding, ranks));
        const std::string next = out(fmt::format("{}-{}.h5", kind, written++)).string();
        if (world) {
          Overrides overrides = division.overrides(ranks);
          overrides.push_back(optimizer);
          const Config config = deck(*world, "unused", overrides);
          WorkerState<double> state(*world, config, arrange(config, ranks, ranks), ExecSpace(),
                                    exchange_transport(*world, config.system));
          const CheckpointReader reader(previous);
          state.restore(reader);
          write_checkpoint(&*world, next, reader.info().header, state.checkpoint_buffers());
        }
        m_world.barrier();
        ASSERT_TRUE(bytes_of(next) == original);
        previous = next;
      }
    }
  }
}

TEST_F(Resume, GoesOnWithOtherRanksAndDivisions) {
  run_with_checkpoints("straight");
  const int all = m_world.size();
  int number = 0;
  for (int ranks : {1, 2, 4, 8}) {
    if (ranks > all) continue;
    // Dense on all ranks, then dense on fewer, then masked, then dense again on all.
    const std::string name = "run" + std::to_string(number);
    on_root([&] { fs::copy(out("straight"), out(name), fs::copy_options::recursive); });
    on_root([&] {
      fs::remove(saved(name, 10));
      fs::remove(saved(name, 12));
      fs::remove(out(name) / "checkpoints/latest");
      fs::remove(out(name) / "summary.json");
    });
    const std::optional<World> world = first_ranks(m_world, ranks);
    Division const& division = k_divisions[2 + number++ % 8];
    if (world) train(*world, deck(*world, name, {"checkpoint.every_steps=5", "checkpoint.keep=9"}));
    m_world.barrier();
    const auto one = weights(saved(name, 12)), other = weights(saved("straight", 12));
    for (std::size_t i = 0; i < one.size(); ++i) ASSERT_NEAR(one[i], other[i], 1e-10);
    EXPECT_THAT(steps(name, "train"), ::testing::ElementsAre(3, 6, 9, 12));

    if (world) {
      Overrides overrides = division.overrides(ranks);
      overrides.push_back("train.steps=18");
      overrides.push_back("checkpoint.every_steps=7");
      train(*world, deck(*world, name, overrides));
    }
    m_world.barrier();
    train(m_world, deck(m_world, name, {"train.steps=24"}));
    m_world.barrier();
    EXPECT_THAT(steps(name, "train"), ::testing::ElementsAre(3, 6, 9, 12, 15, 18, 21, 24));
    EXPECT_THAT(steps(name, "eval"), ::testing::ElementsAre(12, 18, 24));
    for (double value : weights(saved(name, 24))) ASSERT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace sdp
