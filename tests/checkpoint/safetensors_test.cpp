// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "checkpoint/element_convert.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::error_of;
using checkpoint_test::Folder;
using checkpoint_test::names_in;
using checkpoint_test::read_file;
using checkpoint_test::write_file;
using ::testing::HasSubstr;

std::string with_length(std::string const& json, std::string const& data) {
  const std::uint64_t length = json.size();
  return std::string(reinterpret_cast<char const*>(&length), 8) + json + data;
}

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  return std::string(reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T));
}

/// What opening a file with this content says.
std::string refusal(std::string const& content) {
  const Folder folder("safetensors_refusal");
  write_file(folder / "m.safetensors", content);
  const std::string error = error_of([&] { open_safetensors(folder / "m.safetensors"); });
  EXPECT_THAT(error, HasSubstr("m.safetensors"));
  EXPECT_EQ(error.find('\n'), std::string::npos);
  EXPECT_LT(error.size(), 600u);
  return error;
}

std::string refusal(std::string const& json, std::size_t data_bytes) {
  return refusal(with_length(json, std::string(data_bytes, 'x')));
}

TEST(SafetensorsReader, ConvertsEveryReadableType) {
  const Folder folder("safetensors_types");
  const std::vector<double> f64{1.0, -2.5, 1e300};
  const std::vector<float> f32{1.5f, -0.0f, 3e38f};
  const std::vector<std::uint16_t> f16{0x3c00, 0xc100, 0x0001, 0x7bff, 0x8000, 0x7c00};
  const std::vector<std::uint16_t> bf16{0x3f80, 0xc020, 0x0001, 0x7f80};
  const std::vector<std::int64_t> i64{7};
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"d":{"dtype":"F64","shape":[3],"data_offsets":[0,24]},)"
      R"("f":{"dtype":"F32","shape":[3,1],"data_offsets":[24,36]},)"
      R"("h":{"dtype":"F16","shape":[2,3],"data_offsets":[36,48]},)"
      R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[48,56]},)"
      R"("scalar":{"dtype":"I64","shape":[],"data_offsets":[56,64]},)"
      R"("none":{"dtype":"F32","shape":[0,5],"data_offsets":[64,64]}}   )";
  write_file(folder / "m.safetensors",
             with_length(json, bytes_of(f64) + bytes_of(f32) + bytes_of(f16) + bytes_of(bf16) +
                                   bytes_of(i64)));
  const SafetensorsReader reader = open_safetensors(folder.path() + "/m.safetensors");
  ASSERT_EQ(reader.tensors().size(), 6u);
  EXPECT_EQ(reader.find("h")->shape, (std::vector<index_t>{2, 3}));
  EXPECT_EQ(reader.find("scalar")->type_name, "I64");
  EXPECT_EQ(reader.find("none")->elements, 0);
  EXPECT_EQ(reader.find("absent"), nullptr);
  std::vector<double> d(3);
  reader.read_rows("d", 0, 3, d.data());
  EXPECT_EQ(d, f64);
  std::vector<float> f(3);
  reader.read_rows("f", 0, 3, f.data());
  EXPECT_EQ(f, f32);
  EXPECT_TRUE(std::signbit(f[1]));
  std::vector<double> h(6);
  reader.read_rows("h", 0, 2, h.data());
  EXPECT_EQ(h, (std::vector<double>{1.0, -2.5, 0x1p-24, 65504.0, -0.0,
                                    std::numeric_limits<double>::infinity()}));
  std::vector<float> b(2);
  reader.read_rows("b", 1, 1, b.data());
  EXPECT_EQ(b[0], std::ldexp(1.0f, -133));
  EXPECT_TRUE(std::isinf(b[1]));
  reader.read_block("h", 0, 2, 1, 1, b.data());
  EXPECT_EQ(b, (std::vector<float>{-2.5f, -0.0f}));
  EXPECT_THAT(error_of([&] { reader.read_rows("scalar", 0, 1, b.data()); }),
              HasSubstr("\"scalar\" has the element type I64"));
  EXPECT_THAT(error_of([&] { reader.read_rows("absent", 0, 1, b.data()); }),
              HasSubstr("no tensor \"absent\""));
  EXPECT_THROW(reader.read_rows("f", 1, 3, f.data()), std::out_of_range);
}

TEST(SafetensorsReader, HalfPrecisionAgreesWithTheFormulaForAllBitPatterns) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 31);
    const double mantissa = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    const float value = half_to_float(static_cast<std::uint16_t>(bits));
    if (exponent == 31 && mantissa != 0)
      ASSERT_TRUE(std::isnan(value));
    else if (exponent == 31)
      ASSERT_EQ(value, sign * std::numeric_limits<double>::infinity());
    else
      ASSERT_EQ(value, sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25)
                                        : std::ldexp(mantissa, -24)));
  }
}

TEST(SafetensorsReader, RefusesFilesThatAreNone) {
  EXPECT_THAT(error_of([] { open_safetensors("/nonexistent/m.safetensors"); }),
              HasSubstr("ConfigError: cannot open /nonexistent/m.safetensors"));
  EXPECT_THAT(refusal(""), HasSubstr("has 0 bytes"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("has 7 bytes"));
  EXPECT_THAT(refusal(std::string("\x00\x00\x00\x00\x00\x00\x00\x80", 8) + "{}"),
              HasSubstr("at most 100000000"));
  EXPECT_THAT(refusal(std::string(8, '\xff')), HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal(std::string("\x03\x00\x00\x00\x00\x00\x00\x00{}", 10)),
              HasSubstr("only 2 bytes after the length"));
  EXPECT_THAT(refusal(std::string(8, '\0')), HasSubstr("does not start with {"));
  EXPECT_THAT(refusal(" {}", 0), HasSubstr("does not start with {"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("does not start with {"));
  EXPECT_THAT(refusal("{\"a\":", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{} {}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"\xff\":1}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string(2000, '{'), 0), HasSubstr("not valid JSON"));
  std::string big(8, '\0');
  const std::uint64_t length = 100'000'001;
  std::memcpy(big.data(), &length, 8);
  EXPECT_THAT(refusal(big), HasSubstr("at most 100000000 are allowed"));
}

TEST(SafetensorsReader, RefusesHostileEntriesAndNamesTheTensor) {
  struct Case {
    char const* json;
    std::size_t data;
    char const* message;
  };
  const Case cases[] = {
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       16, "names \"a\" twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8,
       "tensor \"a\" has the key \"dtype\" twice"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "__metadata__ has the key \"k\" twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "names \"__metadata__\" twice"},
      {R"({"__metadata__":{"k":1}})", 0, "of __metadata__ is the number 1"},
      {R"({"__metadata__":{"k":{}}})", 0, "of __metadata__ is an object"},
      {R"({"__metadata__":[]})", 0, "__metadata__ is a list"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "\"b\" has the data_offsets [4, 12], which overlap those of tensor \"a\""},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8, "overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "\"b\" has the data_offsets [8, 12], which leave a hole from 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "leave a hole from 0"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "fill only 4"},
      {R"({})", 1, "fill only 0"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
       "\"a\" has the data_offsets [0, 8] beyond the 4 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}})",
       0, "beyond the 0 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8,
       "data_offsets of tensor \"a\" is the negative number -8"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8,
       "shape of tensor \"a\" is the negative number -2"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "no 64-bit integer"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]}})", 8,
       "no 64-bit integer"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "reversed data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
       "8 bytes, but its shape [3] of F32 needs 12"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "\"a\" has the shape [4294967296, 4294967296], whose size overflows"},
      {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0,
       "overflows"},
      {R"({"a":{"dtype":"F64","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0,
       "overflows"},
      {R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8,
       "\"a\" has the unknown element type \"F33\""},
      {R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", 8,
       "dtype of tensor \"a\" is the number 4"},
      {R"({"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}})", 8,
       "dtype of tensor \"a\" is a list"},
      {R"({"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}})", 8,
       "shape of tensor \"a\" is the string \"2\""},
      {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8, "is a list"},
      {R"({"a":{"dtype":"F32","shape":[null],"data_offsets":[0,8]}})", 8, "is null"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,8]}})", 8, "is a boolean"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,8]}})", 8, "is an object"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "has 1 data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}})", 8, "has 3 data_offsets"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "tensor \"a\" lacks shape"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "tensor \"a\" lacks dtype"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 0, "tensor \"a\" lacks data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8, "unknown key \"x\""},
      {R"({"a":5})", 0, "tensor \"a\" is the number 5"},
      {R"({"a":null})", 0, "tensor \"a\" is null"},
      {R"({"a":[1]})", 0, "tensor \"a\" is a list"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
       4, "more than 32 axes"},
  };
  for (Case const& c : cases) {
    SCOPED_TRACE(c.json);
    const std::string error = refusal(c.json, c.data);
    EXPECT_THAT(error, HasSubstr(c.message));
    EXPECT_EQ(error.rfind("ConfigError: ", 0), 0u) << error;
  }
}

TEST(SafetensorsReader, NamesInMessagesAreHarmless) {
  const std::string long_name(5000, 'n');
  const std::string error = refusal(
      "{\"\\u001b[2J" + long_name + R"(":{"dtype":"X","shape":[],"data_offsets":[0,0]}})", 0);
  EXPECT_EQ(error.find('\x1b'), std::string::npos);
  EXPECT_THAT(error, HasSubstr("\\x1b"));
}

TEST(SafetensorsWriter, SingleFileRoundTrip) {
  for (TensorType type : {TensorType::f32, TensorType::bf16}) {
    const Folder folder("safetensors_single");
    std::vector<float> matrix(35);
    for (int i = 0; i < 35; ++i) matrix[i] = static_cast<float>(i) - 17.0f;
    const std::vector<double> vector{0.5, -1.0 / 3.0, 4.0};
    {
      SafetensorsWriter writer(folder.path(), {{"m\"\n", {5, 7}}, {"v", {3}}, {"e", {0, 4}}}, type);
      writer.write_rows("v", 0, 3, vector.data());
      writer.write_rows("m\"\n", 3, 2, matrix.data() + 21);
      std::vector<float> left;
      std::vector<float> right;
      for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 7; ++c) (c < 2 ? left : right).push_back(matrix[r * 7 + c]);
      writer.write_block("m\"\n", 0, 3, 2, 5, right.data());
      writer.write_block("m\"\n", 0, 3, 0, 2, left.data());
      EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model.safetensors.tmp"});
      writer.finish();
    }
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model.safetensors"});
    const std::string file = read_file(folder / "model.safetensors");
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    EXPECT_EQ(length % 8, 0u);
    EXPECT_EQ(file.compare(8, 32, R"({"__metadata__":{"format":"pt"},)"), 0);
    const SafetensorsReader reader = open_safetensors(folder.path());
    std::vector<float> back(35);
    reader.read_rows("m\"\n", 0, 5, back.data());
    EXPECT_EQ(back, matrix);
    std::vector<float> v(3);
    reader.read_rows("v", 0, 3, v.data());
    const float third = static_cast<float>(-1.0 / 3.0);
    EXPECT_EQ(v[1], type == TensorType::f32 ? third : static_cast<float>(kernels::bf16(third)));
  }
}

TEST(SafetensorsWriter, ShardsLargeModelsAndWritesTheIndex) {
  const Folder folder("safetensors_shards");
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  {
    SafetensorsWriter writer(folder.path(), {{"a", {2}}, {"b", {6}}, {"c", {1}}, {"d", {1}}},
                             TensorType::f32, 12);
    for (char const* name : {"a", "b", "c", "d"})
      writer.write_rows(name, 0,
                        std::string(name) == "a"   ? 2
                        : std::string(name) == "b" ? 6
                                                   : 1,
                        values.data());
    writer.finish();
  }
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{
                "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  EXPECT_THAT(read_file(folder / "model.safetensors.index.json"), HasSubstr("\"total_size\": 40"));
  {
    const SafetensorsReader reader = open_safetensors(folder.path());
    EXPECT_EQ(reader.tensors().size(), 4u);
    EXPECT_THAT(reader.file_of("d"), HasSubstr("model-00003-of-00003"));
    std::vector<float> back(6);
    reader.read_rows("b", 0, 6, back.data());
    EXPECT_EQ(back, values);
  }
  EXPECT_EQ(open_safetensors(folder / "model.safetensors.index.json").tensors().size(), 4u);

  const std::string index = read_file(folder / "model.safetensors.index.json");
  auto with = [&](std::string const& from, std::string const& to) {
    std::string changed = index;
    changed.replace(changed.find(from), from.size(), to);
    write_file(folder / "model.safetensors.index.json", changed);
    return error_of([&] { open_safetensors(folder.path()); });
  };
  EXPECT_THAT(with("\"a\": \"model-00001", "\"a\": \"model-00009"),
              HasSubstr("tensor \"a\" lies in \"model-00009-of-00003.safetensors\", a file that"));
  EXPECT_THAT(with("\"a\": \"model-00001", "\"a\": \"model-00002"), HasSubstr("tensor \"a\""));
  EXPECT_THAT(
      with("\"c\": \"model-00003", "\"c\": \"model-00001"),
      HasSubstr("places tensor \"c\" in \"model-00001-of-00003.safetensors\", but it lies"));
  EXPECT_THAT(with("\"a\": ", "\"z\": "), HasSubstr("has no tensor \"z\""));
  EXPECT_THAT(with("\"d\": \"model-00003-of-00003.safetensors\"",
                   "\"c\": \"model-00003-of-00003.safetensors\""),
              HasSubstr("names tensor \"c\" twice"));
  EXPECT_THAT(with(",\n    \"d\": \"model-00003-of-00003.safetensors\"", ""),
              HasSubstr("holds tensor \"d\", which"));
  EXPECT_THAT(with("\"a\": \"model-00001", "\"a\": \"../model-00001"),
              HasSubstr("no plain file name"));
  EXPECT_THAT(with("\"weight_map\"", "\"weights\""), HasSubstr("has no weight_map"));
  EXPECT_THAT(with("\"a\": \"model-00001-of-00003.safetensors\"", "\"a\": 3"),
              HasSubstr("the file of \"a\" is the number 3"));
  EXPECT_THAT(with("{", ""), HasSubstr("not valid JSON"));
}

TEST(SafetensorsReader, OneTensorInTwoShardsIsRefused) {
  const Folder folder("safetensors_twice");
  const std::string content =
      with_length(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "wxyz");
  write_file(folder / "1.safetensors", content);
  write_file(folder / "2.safetensors", content);
  EXPECT_THAT(error_of([&] {
                SafetensorsReader({folder / "1.safetensors", folder / "2.safetensors"});
              }),
              HasSubstr("both hold tensor \"a\""));
}

TEST(SafetensorsWriter, LeavesNothingBehindWithoutFinish) {
  const Folder folder("safetensors_unfinished");
  const std::vector<float> values(4, 1.0f);
  {
    SafetensorsWriter writer(folder.path(), {{"a", {4}}, {"b", {4}}}, TensorType::f32, 16);
    writer.write_rows("a", 0, 4, values.data());
    EXPECT_THAT(error_of([&] { writer.finish(); }),
                HasSubstr("0 of the 4 elements of tensor \"b\" were written"));
  }
  EXPECT_TRUE(names_in(folder.path()).empty());
  EXPECT_THAT(error_of([] {
                SafetensorsWriter("/nonexistent/folder", {{"a", {1}}}, TensorType::f32);
              }),
              HasSubstr("DataError: cannot create /nonexistent/folder/model.safetensors.tmp"));
}

TEST(SafetensorsReader, ATruncatedFileAfterOpeningNamesTheOffset) {
  const Folder folder("safetensors_shrinks");
  const std::vector<float> values(4, 1.0f);
  {
    SafetensorsWriter writer(folder.path(), {{"a", {4}}}, TensorType::f32);
    writer.write_rows("a", 0, 4, values.data());
    writer.finish();
  }
  const SafetensorsReader reader = open_safetensors(folder.path());
  const std::string path = folder / "model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 8);
  std::vector<float> back(4);
  EXPECT_THAT(error_of([&] { reader.read_rows("a", 0, 4, back.data()); }),
              ::testing::MatchesRegex("DataError: .*model.safetensors ends at offset .*"));
}

}  // namespace
}  // namespace sdp
