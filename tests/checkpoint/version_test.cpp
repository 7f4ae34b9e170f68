// SPDX-License-Identifier: Apache-2.0
// Files of older versions of the format, as they were written then.
#include <gtest/gtest.h>

#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::mismatches;
using checkpoint_test::small_header;
using checkpoint_test::tensors_of;

TEST(Version, FilesOfVersion1AreRead) {
  const CheckpointReader reader(SDP_SOURCE_FOLDER "/tests/checkpoint/data/version-1.h5");
  const CheckpointHeader expected = small_header();
  CheckpointInfo const& info = reader.info();
  EXPECT_EQ(info.version, 1);
  EXPECT_EQ(info.written_by.rfind("sdp 0.1.0", 0), 0u);
  EXPECT_EQ(info.header.state.step, expected.state.step);
  EXPECT_EQ(info.header.state.samples, expected.state.samples);
  EXPECT_EQ(info.header.state.tokens, expected.state.tokens);
  EXPECT_EQ(info.header.state.skipped, expected.state.skipped);
  EXPECT_EQ(info.header.state.seed, expected.state.seed);
  EXPECT_EQ(info.header.state.best_val_loss, expected.state.best_val_loss);
  EXPECT_EQ(info.header.deck, expected.deck);
  EXPECT_EQ(info.header.mask, expected.mask);
  LlamaConfig const &a = info.header.model.llama, &b = expected.model.llama;
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.num_kv_heads, b.num_kv_heads);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(info.bytes, 76820);
  EXPECT_TRUE(info.parts.empty());
  EXPECT_FALSE(info.is_double);
  EXPECT_EQ(info.moments, (std::vector<std::string>{k_group_exp_avg, k_group_exp_avg_sq}));
  const ParameterTable table(tensors_of(expected.model));
  reader.check_tensors(table.tensors());
  int group = 0;
  for (char const* name : {k_group_model, k_group_exp_avg, k_group_exp_avg_sq}) {
    View1<float> flat("flat", table.size());
    reader.read(name, table, flat);
    EXPECT_EQ(mismatches(table, group++, flat), 0) << name;
  }
}

}  // namespace
}  // namespace sdp
