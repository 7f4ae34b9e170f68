// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <cstring>

#include "tests/fuzz/fuzz.hpp"

namespace sdp::fuzz {

namespace {

constexpr std::size_t k_largest = std::size_t{1} << 20;  ///< bytes that a mutation may grow to

/// Values at which lengths, counts and offsets go wrong.
std::uint64_t interesting(std::size_t size, Random& random) {
  const std::uint64_t values[] = {0,
                                  1,
                                  2,
                                  0x7f,
                                  0xff,
                                  0x7fff,
                                  0xffff,
                                  0x7fffffff,
                                  0x80000000,
                                  0xffffffff,
                                  0x100000000,
                                  0x7fffffffffffffff,
                                  0x8000000000000000,
                                  0xffffffffffffffff,
                                  size,
                                  size - 1,
                                  size + 1,
                                  size / 2,
                                  random.bits()};
  return values[random.below(std::size(values))];
}

/// A place in the file, more often near its start, where headers lie.
std::size_t place(std::string const& bytes, Random& random) {
  return random.below(random.one_in(3) ? std::min<std::size_t>(bytes.size(), 64) : bytes.size());
}

void change_bytes(std::string& bytes, std::string const& other, Random& random) {
  if (bytes.empty()) {
    bytes.assign(1 + random.below(40), static_cast<char>(random.bits()));
    return;
  }
  const std::size_t at = place(bytes, random);
  const std::size_t length = 1 + random.below(random.one_in(4) ? bytes.size() - at : 16);
  switch (random.below(11)) {
    case 0:
    case 1:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
      break;
    case 2:
      bytes[at] = static_cast<char>(random.bits());
      break;
    case 3:
    case 4: {  // a length field
      const std::uint64_t value = interesting(bytes.size(), random);
      const std::size_t width = std::size_t{1} << random.below(4);
      const std::size_t aligned = random.one_in(2) ? at / width * width : at;
      std::memcpy(bytes.data() + aligned, &value, std::min(width, bytes.size() - aligned));
      break;
    }
    case 5:
      bytes.resize(random.one_in(4) ? bytes.size() - 1 : random.below(bytes.size()));
      break;
    case 6:
      bytes.append(1 + random.below(64),
                   random.one_in(2) ? '\0' : static_cast<char>(random.bits()));
      break;
    case 7:
      bytes.erase(at, length);
      break;
    case 8:  // a piece of the file itself, elsewhere
      bytes.insert(at,
                   bytes.substr(random.below(bytes.size()), std::min<std::size_t>(length, 4096)));
      break;
    case 9:
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                  std::min(length, bytes.size() - at), random.one_in(2) ? '\0' : '\xff');
      break;
    default: {  // the start of this file, the rest of another
      const std::size_t cut = random.below(other.size() + 1);
      bytes =
          bytes.substr(0, random.one_in(2) ? std::min(cut, bytes.size()) : at) + other.substr(cut);
    }
  }
}

constexpr char const* k_words[] = {"{",
                                   "}",
                                   "[",
                                   "]",
                                   "[[",
                                   "\"",
                                   "'",
                                   "\"\"\"",
                                   "'''",
                                   ",",
                                   ":",
                                   "=",
                                   ".",
                                   "#",
                                   "\n",
                                   "\r\n",
                                   "\\",
                                   "\\u0000",
                                   "\\ud800",
                                   "\\U00110000",
                                   "null",
                                   "true",
                                   "false",
                                   "nan",
                                   "-inf",
                                   "0x7fffffffffffffff",
                                   "0b1",
                                   "0o7",
                                   "1_000",
                                   "1e999",
                                   "-0",
                                   "-1",
                                   "1e9",
                                   "0.1",
                                   "99999999999999999999",
                                   "1979-05-27T07:32:00Z",
                                   "25:61:61",
                                   "\xef\xbb\xbf",
                                   "\xff",
                                   "\xc0\x80",
                                   "\xed\xa0\x80",
                                   "[train]\n",
                                   "[[train]]\n",
                                   "[train.steps]\n",
                                   "train.steps = 5\n",
                                   "\"shape\":[0]",
                                   "\"dtype\":\"I64\"",
                                   "\"data_offsets\":[0,0]",
                                   "\"__metadata__\":{}",
                                   "\"weight_map\":{}",
                                   "\"rope_scaling\":{}"};

/// [begin, end) of a line, newline included, or of a number.
using Span = std::pair<std::size_t, std::size_t>;

Span line_at(std::string const& text, std::size_t at) {
  const std::size_t before = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
  const std::size_t begin = before == std::string::npos ? 0 : before + 1;
  const std::size_t end = text.find('\n', at);
  return {begin, end == std::string::npos ? text.size() : end + 1};
}

Span number_after(std::string const& text, std::size_t at) {
  const auto digit = [&](std::size_t i) {
    return std::isdigit(static_cast<unsigned char>(text[i]));
  };
  while (at < text.size() && !digit(at)) ++at;
  std::size_t end = at;
  while (end < text.size() && digit(end)) ++end;
  return {at, end};
}

void change_text(std::string& text, std::string const& other, Random& random) {
  const std::size_t at = random.below(text.size() + 1);
  const std::string word = k_words[random.below(std::size(k_words))];
  switch (random.below(9)) {
    case 0:
      text.insert(at, word);
      break;
    case 1: {
      const auto [begin, end] = number_after(text, at);
      text.replace(begin, end - begin,
                   random.one_in(2) ? word : std::to_string(interesting(text.size(), random)));
      break;
    }
    case 2: {
      const auto [begin, end] = line_at(text, at);
      text.erase(begin, end - begin);
      break;
    }
    case 3: {  // a line of this or of another file, elsewhere
      std::string const& from = random.one_in(2) ? text : other;
      const auto [begin, end] = line_at(from, random.below(from.size() + 1));
      const std::string line = from.substr(begin, end - begin);
      text.insert(line_at(text, at).first, line);
      break;
    }
    case 4:
      text.replace(at, std::min(word.size(), text.size() - at), word);
      break;
    case 5: {  // nesting, and long runs
      std::string run;
      const std::size_t count = std::size_t{1} << random.below(15);
      for (std::size_t i = 0; i < count; ++i) run += word;
      text.insert(at, run);
      break;
    }
    case 6:
      text.erase(at, 1 + random.below(8));
      break;
    default:
      change_bytes(text, other, random);
  }
}

/// Changes the JSON header of a safetensors file and, mostly, makes the length before it fit.
void change_header(std::string& bytes, std::string const& other, Random& random) {
  std::uint64_t length = 0;
  if (bytes.size() < 8) return change_bytes(bytes, other, random);
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) return change_bytes(bytes, other, random);
  std::string header = bytes.substr(8, length);
  const std::string data = bytes.substr(8 + length);
  change_text(header, other.size() < 8 ? other : other.substr(8), random);
  if (!random.one_in(8)) length = header.size();
  bytes.resize(8);
  std::memcpy(bytes.data(), &length, 8);
  bytes += header + data;
}

bool ends_with(std::string const& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

bool mutate(Reader const& reader, std::vector<Bundle> const& seeds, Bundle& bundle,
            Random& random) {
  std::vector<std::string> names;
  for (auto const& [name, content] : bundle)
    if (ends_with(name, reader.ends)) names.push_back(name);
  if (names.empty()) return false;
  const std::string name = names[random.below(names.size())];
  if (bundle.size() > 1 && random.one_in(50)) {  // a file is gone, or is another
    auto other = bundle.begin();
    std::advance(other, random.below(bundle.size()));
    if (random.one_in(2))
      bundle[name] = other->second;
    else
      bundle.erase(other);
    return true;
  }
  std::string& bytes = bundle[name];
  std::string other;
  for (auto const& [other_name, content] : seeds[random.below(seeds.size())])
    if (ends_with(other_name, reader.ends)) other = content;

  // Mostly one change: several are found by the first check that one of them trips.
  const std::size_t changes = random.one_in(3) ? 1 + random.below(6) : 1;
  for (std::size_t i = 0; i < changes; ++i) {
    if (reader.form == Form::text) {
      change_text(bytes, other, random);
    } else if (reader.form == Form::safetensors && !random.one_in(4)) {
      change_header(bytes, other, random);
    } else if (reader.form == Form::hdf5 && i == 0 && random.one_in(3)) {
      // And nothing else: HDF5 1.10 decodes what it has itself written, a virtual dataset for one,
      // out of bounds where bytes of it have changed.
      edit_hdf5(bytes, random);
      return true;
    } else {
      change_bytes(bytes, other, random);
    }
    if (bytes.size() > k_largest) bytes.resize(k_largest);
  }
  return !reader.checksummed;
}

}  // namespace sdp::fuzz
