// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/convert.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "checkpoint/describe.hpp"
#include "checkpoint/huggingface.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::error_of;
using checkpoint_test::filled;
using checkpoint_test::Folder;
using checkpoint_test::mismatches;
using checkpoint_test::names_in;
using checkpoint_test::small_header;
using checkpoint_test::tensors_of;
using checkpoint_test::value_of;
using checkpoint_test::write_file;
using checkpoint_test::write_small;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Convert, ExportThenImportKeepsEveryBit) {
  for (bool tied : {false, true}) {
    for (std::int64_t shard : {std::int64_t{1} << 40, std::int64_t{2000}}) {
      const Folder folder("convert_round");
      write_small<float>(folder / "a.h5", small_header(tied));
      const auto exported =
          export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of, shard);
      EXPECT_EQ(names_in(folder / "hf").size(), exported.paths.size());
      EXPECT_EQ(exported.paths.size() > 2, shard == 2000);
      const auto imported = import_model(folder / "hf", folder / "b.h5", tensors_of);
      EXPECT_EQ(imported.parameters, exported.parameters);
      const CheckpointReader reader(folder / "b.h5");
      EXPECT_EQ(reader.info().header.state.step, 0);
      EXPECT_EQ(reader.info().header.model.llama.tie_embeddings, tied);
      EXPECT_EQ(reader.info().header.model.llama.rope_theta, 5000.0);
      EXPECT_TRUE(reader.info().moments.empty());
      EXPECT_TRUE(reader.info().header.deck.empty());
      const ParameterTable table(tensors_of(reader.info().header.model));
      reader.check_tensors(table.tensors());
      View1<float> flat("flat", table.size());
      reader.read(k_group_model, table, flat);
      EXPECT_EQ(mismatches(table, 0, flat), 0);
    }
  }
}

TEST(Convert, TransposedTensorsTurnToTheOutsideConvention) {
  const Folder folder("convert_turn");
  write_small<float>(folder / "a.h5", small_header());
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
  const SafetensorsReader reader = open_safetensors(folder / "hf");
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  ASSERT_EQ(reader.find(name)->shape, (std::vector<index_t>{12, 20}));
  const ParameterTable table(tensors_of(small_header().model));
  std::vector<float> outside(240);
  reader.read_rows(name, 0, 12, outside.data());
  for (index_t out = 0; out < 12; ++out)
    for (index_t in = 0; in < 20; ++in)
      EXPECT_EQ(outside[out * 20 + in], value_of<float>(0, table.find(name), in * 12 + out));
  EXPECT_EQ(open_safetensors(folder / "hf").find("lm_head.weight") != nullptr, true);
}

TEST(Convert, StorageReadsOfAnyRangeAgreeWithTheWhole) {
  const Folder folder("convert_ranges");
  write_small<float>(folder / "a.h5", small_header());
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
  const SafetensorsReader reader = open_safetensors(folder / "hf");
  const ParameterTable table(tensors_of(small_header().model));
  for (char const* name : {"model.layers.0.self_attn.o_proj.weight", "model.norm.weight",
                           "model.layers.0.self_attn.k_proj.weight"}) {
    const int tensor = table.find(name);
    TensorSpec const& spec = table.tensors()[tensor];
    for (index_t begin = 0; begin < spec.size(); begin += 5) {
      for (index_t count :
           {index_t{1}, index_t{3}, index_t{12}, index_t{29}, spec.size() - begin}) {
        count = std::min(count, spec.size() - begin);
        std::vector<double> out(static_cast<std::size_t>(count), -1.0);
        read_storage(reader, spec, begin, count, out.data());
        for (index_t i = 0; i < count; ++i)
          ASSERT_EQ(out[i], value_of<double>(0, tensor, begin + i)) << name << " " << begin;
      }
    }
  }
}

TEST(Convert, MasksReadOnlyWhatTheyHold) {
  const Folder folder("convert_masked");
  write_small<float>(folder / "a.h5", small_header());
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::bf16, tensors_of);
  const auto tensors = tensors_of(small_header().model);
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    if (t % 3 != 1) held[t] = {{0, tensors[t].rows / 3, (tensors[t].rows + 1) / 2, 0, 0}};
  const ParameterTable table(tensors, held);
  View1<double> flat("flat", table.size());
  read_model(open_safetensors(folder / "hf"), table, flat);
  for (Span const& span : table.spans()) {
    const index_t cols = tensors[span.tensor].cols;
    for (index_t i = 0; i < span.rows * cols; ++i) {
      const auto value = value_of<float>(0, span.tensor, span.row_begin * cols + i);
      ASSERT_EQ(flat(span.offset + i), static_cast<float>(kernels::bf16(value)));
    }
  }
}

TEST(Convert, DoubleCheckpointsExportAndF64FilesImportAsDouble) {
  const Folder folder("convert_double");
  write_small<double>(folder / "a.h5", small_header());
  EXPECT_TRUE(CheckpointReader(folder / "a.h5").info().is_double);
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
  EXPECT_EQ(open_safetensors(folder / "hf").tensors().front().type, TensorType::f32);
  // The norm becomes F64, at the end of the file.
  const SafetensorsReader reader = open_safetensors(folder / "hf");
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;
  for (SafetensorsTensor const& tensor : reader.tensors()) {
    const bool wide = tensor.name == "model.norm.weight";
    std::vector<double> values(static_cast<std::size_t>(tensor.elements));
    reader.read_rows(tensor.name, 0, tensor.rows(), values.data());
    const std::vector<float> narrow(values.begin(), values.end());
    const std::size_t begin = data.size();
    if (wide)
      data.append(reinterpret_cast<char const*>(values.data()), values.size() * 8);
    else
      data.append(reinterpret_cast<char const*>(narrow.data()), narrow.size() * 4);
    header[tensor.name] = {{"dtype", wide ? "F64" : "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  const std::string json = header.dump();
  const std::uint64_t length = json.size();
  write_file(folder / "hf/model.safetensors",
             std::string(reinterpret_cast<char const*>(&length), 8) + json + data);
  import_model(folder / "hf/model.safetensors", folder / "b.h5", tensors_of);
  const CheckpointReader back(folder / "b.h5");
  EXPECT_TRUE(back.info().is_double);
  const ParameterTable table(tensors_of(small_header().model));
  View1<double> flat("flat", table.size());
  back.read(k_group_model, table, flat);
  EXPECT_EQ(mismatches(table, 0, flat), 0);
}

TEST(Convert, RefusalsTouchNothing) {
  const Folder folder("convert_refusal");
  write_small<float>(folder / "a.h5", small_header());
  std::filesystem::create_directories(folder / "used");
  write_file(folder / "used/config.json", "{}");
  write_file(folder / "used/notes.txt", "mine");
  EXPECT_THAT(
      error_of([&] {
        export_checkpoint(folder / "a.h5", folder / "used", TensorType::f32, tensors_of);
      }),
      AllOf(HasSubstr("ConfigError: "), HasSubstr("already holds the model file \"config")));
  EXPECT_EQ(names_in(folder / "used"), (std::vector<std::string>{"config.json", "notes.txt"}));
  EXPECT_THAT(error_of([&] {
                export_checkpoint(folder / "a.h5", folder / "a.h5", TensorType::f32, tensors_of);
              }),
              HasSubstr("is not a folder"));
  EXPECT_THAT(error_of([&] {
                export_checkpoint(folder / "none.h5", folder / "hf", TensorType::f32, tensors_of);
              }),
              HasSubstr("ConfigError: cannot open"));
  EXPECT_THAT(error_of([&] { import_model(folder / "none", folder / "b.h5", tensors_of); }),
              HasSubstr("does not exist"));
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
  EXPECT_THAT(error_of([&] { import_model(folder / "hf", folder / "a.h5", tensors_of); }),
              HasSubstr("already exists"));
  std::filesystem::remove(folder / "hf/config.json");
  EXPECT_THAT(error_of([&] { import_model(folder / "hf", folder / "b.h5", tensors_of); }),
              HasSubstr("has no config.json"));
  LlamaConfig other = checkpoint_test::small_llama();
  other.vocab_size = 38;
  write_hf_config(folder / "hf/config.json", other, TensorType::f32);
  EXPECT_THAT(
      error_of([&] { import_model(folder / "hf", folder / "b.h5", tensors_of); }),
      AllOf(HasSubstr("\"lm_head.weight\" has the shape [37, 12]"), HasSubstr("expects [38, 12]")));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a.h5", "hf", "used"}));
}

/// Makes every write beyond `bytes` of a file fail while it lives, as a full disk does.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : m_handler(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &m_before);
    rlimit limit = m_before;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &m_before);
    std::signal(SIGXFSZ, m_handler);
  }

 private:
  rlimit m_before{};
  void (*m_handler)(int);
};

TEST(Convert, AFullDiskIsAnErrorThatLeavesNothing) {
  const Folder folder("convert_full");
  write_small<float>(folder / "a.h5", small_header());
  {
    const FullDisk full(4096);
    EXPECT_THAT(error_of([&] {
                  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
                }),
                AllOf(HasSubstr("DataError: cannot write"), HasSubstr("model.safetensors.tmp")));
  }
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a.h5"});
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::f32, tensors_of);
  for (rlim_t bytes : {0, 2000, 8192, 20000}) {
    const FullDisk full(bytes);
    EXPECT_THAT(error_of([&] { import_model(folder / "hf", folder / "b.h5", tensors_of); }),
                AllOf(HasSubstr("DataError: cannot"), HasSubstr("b.h5.tmp")));
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a.h5", "hf"}));
  }
  import_model(folder / "hf", folder / "b.h5", tensors_of);
  EXPECT_EQ(CheckpointReader(folder / "b.h5").info().tensors.size(), 21u);
}

TEST(Describe, TextAndJson) {
  const Folder folder("describe");
  write_small<float>(folder / "a.h5", small_header());
  const CheckpointReader reader(folder / "a.h5");
  CheckpointInfo const& info = reader.info();
  EXPECT_EQ(info.tensors.front().name, "lm_head.weight");
  EXPECT_EQ(info.tensors.back().name, "model.norm.weight");
  const std::string text = describe(info);
  EXPECT_THAT(text, AllOf(HasSubstr("step            42, 1 skipped\n"),
                          HasSubstr("tokens          21,504\n"), HasSubstr("exp_avg, exp_avg_sq"),
                          HasSubstr("kv heads 2"), HasSubstr("float32")));
  const auto json = nlohmann::json::parse(describe_json(info));
  EXPECT_EQ(json["kind"], "llama");
  EXPECT_EQ(json["step"], 42);
  EXPECT_EQ(json["seed"], 0xfedcba9876543210u);
  EXPECT_EQ(json["best_val_loss"], 2.5);
  EXPECT_EQ(json["model"]["num_kv_heads"], 2);
  EXPECT_EQ(json["tensors"].size(), 21u);
  EXPECT_EQ(json["moments"],
            (std::vector<std::string>{"optimizer/exp_avg", "optimizer/exp_avg_sq"}));
  EXPECT_EQ(json["bytes"], std::filesystem::file_size(folder / "a.h5"));
}

}  // namespace
}  // namespace sdp
