// SPDX-License-Identifier: Apache-2.0
#pragma once

// HDF5 with ownership and exceptions; included by sources of this layer only.

#include <hdf5.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/types.hpp"

namespace sdp::h5 {

/// Keeps HDF5 from printing its error stack while it lives; comes before all other calls of HDF5.
class QuietErrors {
 public:
  QuietErrors() {
    // HDF5 1.10 does not get rid of an object header whose checksum is wrong, and would complain
    // about it at the end of the process. Files are closed by their owners.
    [[maybe_unused]] static const herr_t once = H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &m_function, &m_data);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~QuietErrors() { H5Eset_auto2(H5E_DEFAULT, m_function, m_data); }
  QuietErrors(QuietErrors const&) = delete;
  QuietErrors& operator=(QuietErrors const&) = delete;

 private:
  H5E_auto2_t m_function = nullptr;
  void* m_data = nullptr;
};

/// The innermost description on HDF5's error stack, one line.
std::string last_error();

/// An identifier that closes itself.
class Id {
 public:
  using Close = herr_t (*)(hid_t);

  Id() = default;
  /// Throws DataError "<what>: <last_error()>" where `id` is negative.
  Id(hid_t id, Close close, std::string const& what);
  Id(Id&& other) noexcept
      : m_id(std::exchange(other.m_id, H5I_INVALID_HID)), m_close(other.m_close) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(m_id, other.m_id);
    std::swap(m_close, other.m_close);
    return *this;
  }
  ~Id() { reset(); }

  operator hid_t() const { return m_id; }
  /// Closes now and says whether that worked.
  bool reset() {
    if (m_id < 0) return true;
    return m_close(std::exchange(m_id, H5I_INVALID_HID)) >= 0;
  }

 private:
  hid_t m_id = H5I_INVALID_HID;
  Close m_close = nullptr;
};

/// Throws DataError "<what>: <last_error()>" where the status is negative.
void check(herr_t status, std::string const& what);

/// Opens files without advisory locks, which some parallel file systems refuse.
void disable_locking(hid_t access, std::string const& what);

/// Attributes of scalars; `what` names file and object.
void write_attribute(hid_t object, char const* name, std::int64_t value, std::string const& what);
void write_attribute(hid_t object, char const* name, std::uint64_t value, std::string const& what);
void write_attribute(hid_t object, char const* name, double value, std::string const& what);
void write_attribute(hid_t object, char const* name, std::string const& value,
                     std::string const& what);

bool has_attribute(hid_t object, char const* name, std::string const& what);
/// Throw DataError where the attribute is missing or has another type.
std::int64_t read_integer(hid_t object, char const* name, std::string const& what);
std::uint64_t read_unsigned(hid_t object, char const* name, std::string const& what);
double read_real(hid_t object, char const* name, std::string const& what);
std::string read_text(hid_t object, char const* name, std::string const& what);

/// Fixed-length UTF-8 string of `size` bytes (at least 1), padded with zeros.
Id text_type(std::size_t size, std::string const& what);

/// Elements [begin, begin + count) of a row-major array.
struct Range {
  index_t begin;
  index_t count;
};

/// Selects ranges (ascending, disjoint) of the elements of a simple dataspace with these extents.
void select(hid_t space, std::vector<hsize_t> const& extents, std::vector<Range> const& ranges,
            std::string const& what);

/// The other way round: the elements that are selected, as ascending ranges. `what` is in front of
/// the DataError where the selection is no set of blocks inside of `extents`, or has more than
/// `most` ranges.
std::vector<Range> selected(hid_t space, std::vector<hsize_t> const& extents, index_t most,
                            std::string const& what);

/// Names of the hard links of a group, sorted.
std::vector<std::string> link_names(hid_t group, std::string const& what);

}  // namespace sdp::h5
