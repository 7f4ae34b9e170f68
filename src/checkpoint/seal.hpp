// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

// A checksum over every byte of a file, at its end where HDF5 does not look. The mappings of
// virtual datasets lie in a heap that HDF5 1.10 decodes before it has verified it, out of bounds
// where it is damaged; so the index of a checkpoint in parts is verified before HDF5 opens such a
// dataset.

namespace sdp::seal {

inline constexpr char k_mark[] = "sdp seal";  ///< then the CRC-32 of all bytes before the mark
inline constexpr std::int64_t k_bytes = 12;

/// Appends the seal to a file that is complete but for it; DataError.
void append(std::string const& path);
/// DataError where the file has no seal or other bytes than when it was sealed.
void check(std::string const& path);

}  // namespace sdp::seal
