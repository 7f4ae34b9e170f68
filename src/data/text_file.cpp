// SPDX-License-Identifier: Apache-2.0
#include "data/text_file.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.hpp"

namespace sdp {

namespace {
constexpr std::size_t k_chunk = 64 << 10;
enum class Coding { unknown, plain, gzip, zstd };

struct ZstdDeleter {
  void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
};
}  // namespace

struct TextFile::Impl {
  std::string path;
  int file = -1;
  Coding coding = Coding::unknown;
  std::vector<char> input = std::vector<char>(k_chunk);
  std::size_t begin = 0;  ///< unread part of input
  std::size_t end = 0;
  index_t offset = 0;  ///< in the file, of input[end]
  bool at_end = false;
  bool in_frame = false;  ///< a compressed member or frame has begun and not ended
  z_stream gzip{};
  std::unique_ptr<ZSTD_DStream, ZstdDeleter> zstd;

  ~Impl() {
    if (coding == Coding::gzip) inflateEnd(&gzip);
    if (file >= 0) ::close(file);
  }

  [[noreturn]] void fail(std::string const& what) const {
    throw DataError(path + ": " + what + " at byte " +
                    std::to_string(offset - static_cast<index_t>(end - begin)));
  }

  /// Reads more input behind what is unread; false at the end of the file.
  bool fill() {
    if (at_end) return false;
    if (begin == end) begin = end = 0;
    ssize_t got = 0;
    do got = ::read(file, input.data() + end, input.size() - end);
    while (got < 0 && errno == EINTR);
    if (got < 0)
      throw DataError(path + ": reading at byte " + std::to_string(offset) +
                      " failed: " + std::strerror(errno));
    at_end = got == 0;
    end += static_cast<std::size_t>(got);
    offset += got;
    return got > 0;
  }

  void recognise() {
    while (end - begin < 4 && fill()) {
    }
    auto starts = [&](std::string_view magic) {
      return std::string_view(input.data() + begin, end - begin).substr(0, magic.size()) == magic;
    };
    if (starts("\x1f\x8b")) {
      if (inflateInit2(&gzip, 15 + 16) != Z_OK) fail("zlib could not be started");
      coding = Coding::gzip;
    } else if (starts("\x28\xb5\x2f\xfd")) {
      zstd.reset(ZSTD_createDStream());
      coding = Coding::zstd;
    } else {
      coding = Coding::plain;
    }
  }

  /// Decompresses into `to`; the bytes written, 0 only at the end.
  std::size_t decompress(char* to, std::size_t size) {
    for (;;) {
      if (begin == end && !fill()) {
        if (in_frame)
          fail(coding == Coding::gzip ? "gzip data is truncated" : "zstd data is truncated");
        return 0;
      }
      const std::size_t made =
          coding == Coding::gzip ? inflate_some(to, size) : zstd_some(to, size);
      if (made > 0) return made;
    }
  }

  std::size_t inflate_some(char* to, std::size_t size) {
    if (!in_frame && input[begin] == 0) {  // padding of tapes and archives
      ++begin;
      return 0;
    }
    in_frame = true;
    gzip.next_in = reinterpret_cast<Bytef*>(input.data() + begin);
    gzip.avail_in = static_cast<uInt>(end - begin);
    gzip.next_out = reinterpret_cast<Bytef*>(to);
    gzip.avail_out = static_cast<uInt>(size);
    const int status = inflate(&gzip, Z_NO_FLUSH);
    begin = end - gzip.avail_in;
    if (status == Z_STREAM_END) {
      in_frame = false;
      inflateReset(&gzip);
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      fail(std::string("corrupt gzip data (") + (gzip.msg ? gzip.msg : zError(status)) + ")");
    }
    return size - gzip.avail_out;
  }

  std::size_t zstd_some(char* to, std::size_t size) {
    ZSTD_inBuffer source{input.data() + begin, end - begin, 0};
    ZSTD_outBuffer target{to, size, 0};
    const std::size_t status = ZSTD_decompressStream(zstd.get(), &target, &source);
    begin += source.pos;
    if (ZSTD_isError(status))
      fail(std::string("corrupt zstd data (") + ZSTD_getErrorName(status) + ")");
    in_frame = status != 0;
    return target.pos;
  }
};

TextFile::TextFile(std::string path) : m_impl(std::make_unique<Impl>()) {
  m_impl->path = std::move(path);
  m_impl->file = ::open(m_impl->path.c_str(), O_RDONLY | O_CLOEXEC);
  if (m_impl->file < 0)
    throw DataError(m_impl->path + ": cannot be opened: " + std::strerror(errno));
}
TextFile::~TextFile() = default;
TextFile::TextFile(TextFile&&) noexcept = default;
TextFile& TextFile::operator=(TextFile&&) noexcept = default;

std::string const& TextFile::path() const {
  return m_impl->path;
}

bool TextFile::append(std::string& text) {
  Impl& impl = *m_impl;
  if (impl.coding == Coding::unknown) impl.recognise();
  if (impl.coding == Coding::plain) {
    if (impl.begin == impl.end && !impl.fill()) return false;
    text.append(impl.input.data() + impl.begin, impl.end - impl.begin);
    impl.begin = impl.end;
    return true;
  }
  const std::size_t before = text.size();
  text.resize(before + k_chunk);
  const std::size_t made = impl.decompress(text.data() + before, k_chunk);
  text.resize(before + made);
  return made > 0;
}

namespace {

/// Length of the well-formed UTF-8 character at the start of `bytes`, or minus the number of bytes
/// of the ill-formed part there (Unicode standard, table 3-7).
int character(std::string_view bytes) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  int length = 0;
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return -1;
  }
  for (int i = 1; i < length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (at >= bytes.size() || byte(at) < low || byte(at) > high) return -i;
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

}  // namespace

index_t append_utf8(std::string_view bytes, std::string& text) {
  index_t replaced = 0;
  std::size_t good = 0;  // well-formed and not yet appended: [good, at)
  std::size_t at = 0;
  while (at < bytes.size()) {
    std::uint64_t eight = 0;
    if (at + 8 <= bytes.size()) {
      std::memcpy(&eight, bytes.data() + at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const int length = character(bytes.substr(at, 4));
    if (length > 0) {
      at += static_cast<std::size_t>(length);
      continue;
    }
    text.append(bytes.substr(good, at - good)).append("\xEF\xBF\xBD");
    at += static_cast<std::size_t>(-length);
    good = at;
    replaced -= length;
  }
  text.append(bytes.substr(good));
  return replaced;
}

index_t cut_text(std::string_view text, index_t limit) {
  for (char mark : {'\n', ' '}) {
    const std::size_t found = text.rfind(mark, static_cast<std::size_t>(limit));
    if (found != std::string_view::npos && found > 0) return static_cast<index_t>(found);
  }
  index_t cut = limit;
  while (cut > limit - 3 && continues_character(text[static_cast<std::size_t>(cut)])) --cut;
  return cut;
}

}  // namespace sdp
