// SPDX-License-Identifier: Apache-2.0
#include "data/text_source.hpp"

#include <zlib.h>
#include <zstd.h>

#include <random>

#include "data/text_file.hpp"
#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using namespace test;

std::string gzip(std::string const& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string const& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

/// Documents with their pieces put together again.
std::vector<std::string> documents(TextSource& source) {
  std::vector<std::string> all;
  for (TextPiece piece; source.next(piece);) {
    if (piece.starts_document) all.emplace_back();
    if (all.empty()) {
      ADD_FAILURE() << "a piece before the first document";
      all.emplace_back();
    }
    all.back() += piece.text;
  }
  EXPECT_EQ(source.documents(), static_cast<index_t>(all.size()));
  return all;
}
std::vector<std::string> documents(std::vector<std::string> const& inputs,
                                   TextOptions options = {}) {
  TextSource source(inputs, options);
  return documents(source);
}

using Strings = std::vector<std::string>;

TEST(TextSource, AFileIsADocumentWhateverItsCompression) {
  Folder folder;
  std::string const text = "One line\nanother \xC3\xA9\n\n";
  EXPECT_EQ(documents({write_file(folder / "a.txt", text), write_file(folder / "b.gz", gzip(text)),
                       write_file(folder / "c", zstd(text)),
                       write_file(folder / "d.txt.gz", gzip("One line\n") + gzip(text.substr(9))),
                       write_file(folder / "e.zst", zstd("One line\n") + zstd(text.substr(9))),
                       write_file(folder / "f.gz", gzip(text) + std::string(512, '\0'))}),
            Strings(6, text));
}

TEST(TextSource, LongTextsComeInPiecesCutBeforeNewlines) {
  Folder folder;
  std::mt19937 random(3);
  std::string text;
  while (text.size() < 300'000) {
    text.append(random() % 90, static_cast<char>('a' + random() % 26));
    text += random() % 3 == 0 ? "\n" : " ";
  }
  for (std::string const& path :
       {write_file(folder / "a.txt", text), write_file(folder / "a.gz", gzip(text))}) {
    TextSource source({path}, {"", 1000});
    std::string joined;
    int pieces = 0;
    for (TextPiece piece; source.next(piece); ++pieces) {
      EXPECT_EQ(piece.starts_document, pieces == 0);
      EXPECT_LE(piece.text.size(), 1000u);
      if (pieces > 0) {
        EXPECT_EQ(piece.text.front(), '\n');
      }
      joined += piece.text;
    }
    EXPECT_EQ(joined, text);
    EXPECT_GT(pieces, 299);
    EXPECT_EQ(source.bytes(), static_cast<index_t>(text.size()));
    EXPECT_EQ(source.documents(), 1);
  }
}

TEST(TextSource, CutsTextWithoutNewlinesAtSpacesAndThenBetweenCharacters) {
  EXPECT_EQ(cut_text("ab\ncd ef", 6), 2);
  EXPECT_EQ(cut_text("\nabc def", 6), 4);
  EXPECT_EQ(cut_text("\nabcdefgh", 6), 6);
  EXPECT_EQ(cut_text("abc\xC3\xA9z", 4), 3);
  EXPECT_EQ(cut_text("abc\xE2\x82\xACz", 5), 3);
  EXPECT_EQ(cut_text("ab\xF0\x9F\x98\x80z", 5), 2);
  EXPECT_EQ(cut_text("ab\xF0\x9F\x98\x80z", 6), 6);
}

TEST(TextSource, JsonlGivesTheNamedFieldOfEachLine) {
  Folder folder;
  std::string const lines =
      "{\"text\": \"first\\nline\", \"id\": 1}\n\n{\"id\":2,\"text\":\"\\u00e9\"}\r\n"
      "{\"text\":\"  \"}\n{\"text\":\"last\"}";
  const Strings expected = {"first\nline", "\xC3\xA9", "last"};
  EXPECT_EQ(documents({write_file(folder / "a.jsonl", lines)}), expected);
  EXPECT_EQ(documents({write_file(folder / "a.jsonl.gz", gzip(lines))}), expected);
  EXPECT_EQ(documents({write_file(folder / "a.ndjson.zst", zstd(lines))}), expected);
  EXPECT_EQ(documents({write_file(folder / "a.json", lines)}, {"text", 1 << 20}), expected);
  EXPECT_EQ(documents({folder / "a.json"}), Strings{lines});
  TextSource source({folder / "a.jsonl"});
  documents(source);
  EXPECT_EQ(source.empty_documents(), 1);
  EXPECT_EQ(documents({write_file(folder / "b.jsonl", "{\"body\":\"x\",\"text\":1}\n")}, {"body"}),
            Strings{"x"});
}

TEST(TextSource, ManyAndLongJsonLinesSurviveTheBuffer) {
  Folder folder;
  std::string lines;
  Strings expected;
  for (int i = 0; i < 3000; ++i) {
    expected.emplace_back(static_cast<std::size_t>(1 + i * 37 % 500 * (i % 100 == 0 ? 400 : 1)),
                          'a' + i % 26);
    lines += "{\"text\":\"" + expected.back() + "\"}\n";
  }
  EXPECT_EQ(documents({write_file(folder / "a.jsonl", lines)}, {"", 4096}), expected);
  EXPECT_EQ(documents({write_file(folder / "a.jsonl.zst", zstd(lines))}, {"", 100}), expected);
}

TEST(TextSource, MalformedJsonNamesFileAndLine) {
  Folder folder;
  auto expect_bad = [&](std::string const& lines, std::string const& line, Strings const& parts) {
    const auto path = write_file(folder / "a.jsonl", lines);
    Strings all = parts;
    all.push_back(path + ":" + line + ": ");
    expect_error<DataError>([&] { documents({path}); }, all);
  };
  expect_bad("{\"text\":\"ok\"}\n{\"text\": oops}\n", "2", {"not JSON", "one object a line"});
  expect_bad("{\"text\":\"ok\"}\n\n{\"text\": \"cut", "3", {"not JSON"});
  expect_bad("{\"body\":\"x\",\"id\":3}\n", "1", {"no field \"text\"", "body, id"});
  expect_bad("{}\n", "1", {"it has none"});
  expect_bad("{\"text\":[1]}\n", "1", {"field \"text\" holds a array", "expected a string"});
  expect_bad("[1, 2]\n", "1", {"JSON array", "expected an object"});
  expect_bad("{\"text\":\"\\ud800\"}\n", "1", {"surrogate"});
}

TEST(TextSource, DamagedCompressionNamesFileAndOffset) {
  Folder folder;
  std::mt19937 random(5);
  std::string text(200'000, ' ');
  for (char& c : text) c = static_cast<char>('a' + random() % 20);
  for (auto const& [name, packed] :
       {std::pair{std::string("gzip"), gzip(text)}, {"zstd", zstd(text)}}) {
    const auto path = write_file(folder / name, packed.substr(0, packed.size() / 2));
    expect_error<DataError>(
        [&] { documents({path}); },
        {path, name + " data is truncated at byte " + std::to_string(packed.size() / 2)});
    write_file(path, packed.substr(0, packed.size() - 1));
    expect_error<DataError>([&] { documents({path}); }, {name + " data is truncated"});
    write_file(path, packed.substr(0, packed.size() / 2) + std::string(100, '\xff') +
                         packed.substr(packed.size() / 2 + 100));
    if (name == "gzip")  // this zstd frame has no checksum, so that a flipped literal is not seen
      expect_error<DataError>([&] { documents({path}); }, {path, "corrupt gzip data", "at byte "});
    write_file(path, packed + "trailing");
    expect_error<DataError>([&] { documents({path}); }, {path, "corrupt " + name + " data"});
  }
}

TEST(TextSource, FoldersAreReadInByteOrderWithoutHiddenAndBinaryFiles) {
  Folder folder;
  write_file(folder / "in/b.txt", "b");
  write_file(folder / "in/a/z.txt", "z");
  write_file(folder / "in/a/deep/x.jsonl", "{\"text\":\"x1\"}\n{\"text\":\"x2\"}\n");
  write_file(folder / "in/B.txt", "B");
  write_file(folder / "in/.hidden", "hidden");
  write_file(folder / "in/.git/config", "hidden");
  write_file(folder / "in/picture.png", std::string("PNG\0\1", 5));
  TextSource source({folder / "in"});
  EXPECT_EQ(documents(source), (Strings{"B", "x1", "x2", "z", "b"}));
  ::testing::internal::CaptureStderr();
  source.report();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr("1 binary file(s) left out; the first is " +
                                   (folder / "in/picture.png")));
  expect_error<DataError>([&] { documents({folder / "in/picture.png"}); },
                          {folder / "in/picture.png", "byte 3"});
}

TEST(TextSource, SkipsEmptyDocumentsAndByteOrderMarks) {
  Folder folder;
  TextSource source({write_file(folder / "a", ""), write_file(folder / "b", " \n\t\n"),
                     write_file(folder / "c", "\xEF\xBB\xBFtext"),
                     write_file(folder / "d", gzip(""))});
  EXPECT_EQ(documents(source), Strings{"text"});
  EXPECT_EQ(source.empty_documents(), 3);
}

TEST(TextSource, BytesThatAreNotUtf8AreReplacedAndCounted) {
  std::string const mark = "\xEF\xBF\xBD";
  auto clean = [](std::string const& bytes, index_t expected) {
    std::string text;
    EXPECT_EQ(append_utf8(bytes, text), expected) << bytes;
    return text;
  };
  EXPECT_EQ(clean("plain and longer than eight", 0), "plain and longer than eight");
  EXPECT_EQ(clean("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 0),
            "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(clean("caf\xE9 au lait and more", 1), "caf" + mark + " au lait and more");
  EXPECT_EQ(clean("a\x80z", 1), "a" + mark + "z");
  EXPECT_EQ(clean("\xC0\xAF", 2), mark + mark);                        // overlong
  EXPECT_EQ(clean("\xED\xA0\x80", 3), mark + mark + mark);             // surrogate
  EXPECT_EQ(clean("\xF4\x90\x80\x80", 4), mark + mark + mark + mark);  // past U+10FFFF
  EXPECT_EQ(clean("a\xE2\x82", 2), "a" + mark);                        // cut short
  EXPECT_EQ(clean("\xE2\x82z", 2), mark + "z");
  Folder folder;
  TextSource source(
      {write_file(folder / "good", "good"), write_file(folder / "latin1", "\xE9t\xE9")});
  EXPECT_EQ(documents(source), (Strings{"good", mark + "t" + mark}));
  EXPECT_EQ(source.replaced_bytes(), 2);
  ::testing::internal::CaptureStderr();
  source.report();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr(folder / "latin1"));
}

TEST(TextSource, RefusesMissingInputs) {
  Folder folder;
  std::filesystem::create_directory(folder / "empty");
  expect_error<ConfigError>([&] { TextSource({}); }, {"no input"});
  expect_error<ConfigError>([&] { TextSource({folder / "absent"}); },
                            {folder / "absent", "No such file"});
  expect_error<ConfigError>([&] { TextSource({folder / "empty"}); }, {folder / "empty", "no file"});
}

}  // namespace
}  // namespace sdp
