// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/resnet_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/convert.hpp"
#include "checkpoint/describe.hpp"
#include "checkpoint/huggingface.hpp"
#include "tests/checkpoint/resnet_support.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::error_of;
using checkpoint_test::filled;
using checkpoint_test::Folder;
using checkpoint_test::mismatches;
using checkpoint_test::names_in;
using checkpoint_test::read_file;
using checkpoint_test::resnet_header;
using checkpoint_test::resnet_tensors_of;
using checkpoint_test::small_resnet;
using checkpoint_test::value_of;
using checkpoint_test::write_file;
using checkpoint_test::write_resnet;
using ::testing::AllOf;
using ::testing::HasSubstr;

void export_resnet(std::string const& checkpoint, std::string const& folder,
                   TensorType type = TensorType::f32) {
  export_checkpoint(checkpoint, folder, type, resnet_tensors_of);
}

/// A safetensors file of these shapes, filled with zeros.
void write_zeros(std::string const& folder, std::vector<SafetensorsOutput> const& outputs) {
  std::filesystem::create_directories(folder);
  SafetensorsWriter writer(folder, outputs, TensorType::f32);
  for (SafetensorsOutput const& output : outputs) {
    if (output.integer) continue;
    index_t size = 1;
    for (index_t extent : output.shape) size *= extent;
    const std::vector<float> zeros(static_cast<std::size_t>(size), 0.0f);
    writer.write_rows(output.name, 0, output.shape[0], zeros.data());
  }
  writer.finish();
}

std::vector<SafetensorsOutput> outputs_of(ModelConfig const& model) {
  std::vector<SafetensorsOutput> outputs;
  for (TensorSpec const& tensor : resnet_tensors_of(model))
    outputs.push_back({tensor.name, outside_shape(tensor.shape, tensor.transposed)});
  return outputs;
}

// Width 3, and the full one, where the largest tensors pass in several chunks.
TEST(ResnetFile, ExportThenImportKeepsEveryBit) {
  for (index_t width : {3, 64}) {
    const Folder folder("resnet_round");
    write_resnet<float>(folder / "a.h5", resnet_header(width));
    const auto exported =
        export_checkpoint(folder / "a.h5", folder / "out", TensorType::f32, resnet_tensors_of);
    EXPECT_EQ(names_in(folder / "out"), std::vector<std::string>{"model.safetensors"});
    EXPECT_EQ(exported.paths, std::vector<std::string>{folder / "out/model.safetensors"});
    const auto imported =
        import_model(folder / "out/model.safetensors", folder / "b.h5", resnet_tensors_of);
    EXPECT_EQ(imported.parameters, exported.parameters);
    const CheckpointReader reader(folder / "b.h5");
    ModelConfig const& model = reader.info().header.model;
    EXPECT_EQ(model.kind, ModelKind::resnet18);
    EXPECT_EQ(model.resnet.num_classes, 5);
    EXPECT_EQ(model.resnet.in_channels, 2);
    EXPECT_EQ(model.resnet.width, width);
    EXPECT_EQ(reader.info().header.state.step, 0);
    const ParameterTable table(resnet_tensors_of(model));
    reader.check_tensors(table.tensors());
    View1<float> flat("flat", table.size());
    reader.read(k_group_model, table, flat);
    EXPECT_EQ(mismatches(table, 0, flat), 0) << width;
  }
}

TEST(ResnetFile, TheNamesAndShapesOfPyTorch) {
  const Folder folder("resnet_names");
  write_resnet<double>(folder / "a.h5", resnet_header());
  export_resnet(folder / "a.h5", folder / "out");
  const SafetensorsReader reader = open_safetensors(folder / "out");
  // 20 convolutions, 20 batch norms of five tensors, the classifier's two.
  EXPECT_EQ(reader.tensors().size(), 122u);
  using Shape = std::vector<index_t>;
  EXPECT_EQ(reader.find("conv1.weight")->shape, (Shape{3, 2, 3, 3}));
  EXPECT_EQ(reader.find("layer3.0.conv1.weight")->shape, (Shape{12, 6, 3, 3}));
  EXPECT_EQ(reader.find("layer3.0.shortcut.0.weight")->shape, (Shape{12, 6, 1, 1}));
  EXPECT_EQ(reader.find("layer4.1.bn2.running_var")->shape, (Shape{24}));
  EXPECT_EQ(reader.find("linear.weight")->shape, (Shape{5, 24}));
  SafetensorsTensor const* counter = reader.find("layer2.0.shortcut.1.num_batches_tracked");
  ASSERT_NE(counter, nullptr);
  EXPECT_EQ(counter->type_name, "I64");
  EXPECT_EQ(counter->shape, Shape{});
  const std::string file = read_file(folder / "out/model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  const auto header = nlohmann::json::parse(file.substr(8, length));
  const std::int64_t begin = header["bn1.num_batches_tracked"]["data_offsets"][0];
  std::int64_t updates = 0;
  std::memcpy(&updates, file.data() + 8 + length + begin, sizeof(updates));
  EXPECT_EQ(updates, 42);
  EXPECT_EQ((8 + length + begin) % 8, 0u);
}

TEST(ResnetFile, TransposedFiltersTurnToTheOutsideConvention) {
  const Folder folder("resnet_turn");
  write_resnet<float>(folder / "a.h5", resnet_header());
  export_resnet(folder / "a.h5", folder / "out");
  const SafetensorsReader reader = open_safetensors(folder / "out");
  const ParameterTable table(resnet_tensors_of(small_resnet()));
  for (std::string const& name :
       {std::string("layer2.1.conv2.weight"), std::string("conv1.weight")}) {
    const int tensor = table.find(name);
    std::vector<index_t> const& stored = table.tensors()[tensor].shape;
    const bool transposed = table.tensors()[tensor].transposed;
    const std::vector<index_t> shape = reader.find(name)->shape;
    std::vector<float> outside(static_cast<std::size_t>(reader.find(name)->elements));
    reader.read_rows(name, 0, shape[0], outside.data());
    for (index_t out = 0; out < shape[0]; ++out)
      for (index_t in = 0; in < shape[1]; ++in)
        for (index_t y = 0; y < 3; ++y)
          for (index_t x = 0; x < 3; ++x) {
            const index_t filter = transposed ? in * stored[1] + out : out * stored[1] + in;
            ASSERT_EQ(outside[((out * shape[1] + in) * 3 + y) * 3 + x],
                      value_of<float>(0, tensor, (filter * 3 + y) * 3 + x))
                << name;
          }
  }
}

TEST(ResnetFile, StorageReadsOfAnyRangeAgreeWithTheWhole) {
  const Folder folder("resnet_ranges");
  write_resnet<float>(folder / "a.h5", resnet_header());
  export_resnet(folder / "a.h5", folder / "out");
  const SafetensorsReader reader = open_safetensors(folder / "out");
  const ParameterTable table(resnet_tensors_of(small_resnet()));
  for (char const* name : {"layer1.0.conv2.weight", "layer2.0.conv2.weight",
                           "layer2.0.conv1.weight", "layer1.1.bn1.running_mean"}) {
    const int tensor = table.find(name);
    TensorSpec const& spec = table.tensors()[tensor];
    for (index_t begin = 0; begin < spec.size(); ++begin) {
      for (index_t count :
           {index_t{1}, index_t{8}, index_t{9}, index_t{31}, index_t{113}, spec.size() - begin}) {
        count = std::min(count, spec.size() - begin);
        std::vector<double> out(static_cast<std::size_t>(count), -1.0);
        read_storage(reader, spec, begin, count, out.data());
        for (index_t i = 0; i < count; ++i)
          ASSERT_EQ(out[i], value_of<double>(0, tensor, begin + i)) << name << " " << begin;
      }
    }
  }
}

// The rows of a second convolution are its input channels.
TEST(ResnetFile, MasksReadOnlyWhatTheyHold) {
  const Folder folder("resnet_masked");
  write_resnet<float>(folder / "a.h5", resnet_header());
  export_resnet(folder / "a.h5", folder / "out", TensorType::bf16);
  const auto tensors = resnet_tensors_of(small_resnet());
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const index_t rows = tensors[t].rows;
    if (t % 5 != 1) held[t] = {{0, rows / 3, (rows + 1) / 3, 0, 0}, {0, rows - 1, 1, 0, 1}};
  }
  const ParameterTable table(tensors, held);
  ASSERT_GT(table.held_rows(table.find("layer2.0.conv2.weight")), 0);
  View1<double> flat("flat", table.size());
  read_model(open_import(folder / "out", resnet_tensors_of).reader, table, flat);
  for (Span const& span : table.spans()) {
    const index_t cols = tensors[span.tensor].cols;
    for (index_t i = 0; i < span.rows * cols; ++i) {
      const auto value = value_of<float>(0, span.tensor, span.row_begin * cols + i);
      ASSERT_EQ(flat(span.offset + i), static_cast<float>(kernels::bf16(value)))
          << tensors[span.tensor].name;
    }
  }
}

TEST(ResnetFile, ConfigOrNamesTellTheModel) {
  const Folder folder("resnet_kind");
  write_zeros(folder / "out", outputs_of(small_resnet()));
  const std::string file = folder / "out/model.safetensors";
  EXPECT_EQ(open_import(file, resnet_tensors_of).model.kind, ModelKind::resnet18);
  EXPECT_EQ(open_import(folder / "out", resnet_tensors_of).model.resnet.width, 3);
  for (char const* config : {"{}", R"({"model_type": "resnet"})", R"({"model_type": 3})"}) {
    write_file(folder / "out/config.json", config);
    EXPECT_EQ(open_import(file, resnet_tensors_of).model.kind, ModelKind::resnet18) << config;
  }
  write_file(folder / "out/config.json", R"({"model_type": "llama"})");
  EXPECT_THAT(error_of([&] { open_import(file, resnet_tensors_of); }),
              HasSubstr("config.json: vocab_size is missing"));
  write_file(folder / "out/config.json", "{");
  EXPECT_THAT(error_of([&] { open_import(file, resnet_tensors_of); }),
              HasSubstr("config.json is not valid JSON"));
  write_zeros(folder / "other", {{"weight", {2}}});
  EXPECT_THAT(error_of([&] { open_import(folder / "other", resnet_tensors_of); }),
              HasSubstr("has no config.json"));
  write_file(folder / "other/config.json", R"({"model_type": "resnet18"})");
  EXPECT_THAT(error_of([&] { open_import(folder / "other", resnet_tensors_of); }),
              HasSubstr("has no tensor \"conv1.weight\""));
}

TEST(ResnetFile, RefusesOtherVariantsInOneSentence) {
  using Outputs = std::vector<SafetensorsOutput>;
  const auto named = [](Outputs& outputs, std::string const& name) -> SafetensorsOutput& {
    return *std::find_if(outputs.begin(), outputs.end(),
                         [&](SafetensorsOutput const& output) { return output.name == name; });
  };
  const auto complaint = [&](auto const& change) {
    const Folder folder("resnet_refusal");
    Outputs outputs = outputs_of(small_resnet());
    change(outputs);
    write_zeros(folder / "in", outputs);
    const std::string error = error_of(
        [&] { import_model(folder / "in/model.safetensors", folder / "b.h5", resnet_tensors_of); });
    EXPECT_EQ(std::filesystem::exists(folder / "b.h5"), error == "no error");
    EXPECT_EQ(error.find('\n'), std::string::npos);
    return error;
  };
  EXPECT_EQ(complaint([](Outputs&) {}), "no error");
  EXPECT_EQ(complaint([](Outputs& outputs) {
              outputs.insert(outputs.begin(), {"layer1.0.bn2.num_batches_tracked", {}, 7});
            }),
            "no error");
  EXPECT_THAT(complaint([](Outputs& outputs) {
                outputs.insert(outputs.begin(), {"layer5.0.bn2.num_batches_tracked", {}, 7});
              }),
              HasSubstr("\"layer5.0.bn2.num_batches_tracked\" of shape [] does not belong to a"));
  EXPECT_THAT(complaint([&](Outputs& o) {
                named(o, "conv1.weight").shape = {3, 2, 7, 7};
              }),
              AllOf(HasSubstr("ConfigError: "), HasSubstr("model.safetensors: "),
                    HasSubstr("\"conv1.weight\" has the shape [3, 2, 7, 7]; only the CIFAR")));
  EXPECT_THAT(complaint([&](Outputs& o) {
                named(o, "conv1.weight").shape = {3, 18};
              }),
              HasSubstr("has the shape [3, 18]; [width, channels, 3, 3] with sizes from 1 to"));
  EXPECT_THAT(complaint([&](Outputs& o) {
                named(o, "conv1.weight").shape = {0, 2, 3, 3};
              }),
              HasSubstr("has the shape [0, 2, 3, 3]; [width, channels, 3, 3] with sizes from 1"));
  EXPECT_THAT(complaint([&](Outputs& o) {
                named(o, "conv1.weight").shape = {65537, 1, 3, 3};
              }),
              HasSubstr("has the shape [65537, 1, 3, 3]; [width, channels, 3, 3] with sizes"));
  EXPECT_THAT(complaint([&](Outputs& o) { named(o, "linear.weight").name = "fc.weight"; }),
              HasSubstr("has no tensor \"linear.weight\"; the names of the CIFAR ResNet-18"));
  EXPECT_THAT(complaint([](Outputs& outputs) {
                for (SafetensorsOutput& output : outputs) output.name = "module." + output.name;
              }),
              HasSubstr("has no tensor \"conv1.weight\""));
  EXPECT_THAT(complaint([&](Outputs& o) { named(o, "layer3.0.bn1.bias").name = "x"; }),
              HasSubstr("has no tensor \"layer3.0.bn1.bias\"; its CIFAR ResNet-18 needs one of "
                        "shape [12]"));
  EXPECT_THAT(
      complaint([&](Outputs& o) {
        named(o, "layer3.0.conv2.weight").shape = {12, 12, 1, 1};
      }),
      HasSubstr("\"layer3.0.conv2.weight\" has the shape [12, 12, 1, 1]; [12, 12, 3, 3] follows"));
  EXPECT_THAT(complaint([](Outputs& o) {
                o.push_back({"layer1.2.conv1.weight", {3, 3, 3, 3}});
              }),
              HasSubstr("\"layer1.2.conv1.weight\" of shape [3, 3, 3, 3] does not belong"));
  EXPECT_THAT(complaint([&](Outputs& o) {
                named(o, "bn1.bias") = {"bn1.bias", {}, 1};
              }),
              HasSubstr("\"bn1.bias\" has the shape []; [3] follows"));
}

TEST(ResnetFile, DescriptionCountsStatisticsApart) {
  const Folder folder("resnet_describe");
  CheckpointHeader header = resnet_header(64);
  header.model.resnet.num_classes = 10;
  header.model.resnet.in_channels = 3;
  write_resnet<float>(folder / "a.h5", header);
  const CheckpointReader reader(folder / "a.h5");
  const std::string text = describe(reader.info());
  EXPECT_THAT(text, AllOf(HasSubstr("resnet18: classes 10, channels 3, width 64\n"),
                          HasSubstr("parameters      11,173,962 in 62 tensors, float32\n"),
                          HasSubstr("statistics      9,600 in 40 tensors\n"),
                          HasSubstr("step            42\n"), HasSubstr("samples         1,344\n")));
  EXPECT_EQ(text.find("tokens"), std::string::npos);
  const auto json = nlohmann::json::parse(describe_json(reader.info()));
  EXPECT_EQ(json["parameters"], 11173962);
  EXPECT_EQ(json["statistics"], 9600);
  EXPECT_EQ(json["model"]["width"], 64);
  const auto exported =
      export_checkpoint(folder / "a.h5", folder / "out", TensorType::f32, resnet_tensors_of);
  EXPECT_EQ(exported.parameters, 11173962);
}

}  // namespace
}  // namespace sdp
