// SPDX-License-Identifier: Apache-2.0
// The reader SDP_FUZZ_READER as libFuzzer calls it: a file, or several as pack() joins them.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/fuzz/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  for (sdp::fuzz::Reader const& reader : sdp::fuzz::readers())
    if (std::string_view(reader.name) == SDP_FUZZ_READER)
      reader.run(sdp::fuzz::unpack({reinterpret_cast<char const*>(bytes), size}, reader.file));
  return 0;
}
