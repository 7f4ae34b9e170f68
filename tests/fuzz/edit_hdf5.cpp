// SPDX-License-Identifier: Apache-2.0
// Edits that leave every checksum of HDF5 right. Calls that fail change nothing, which is fine
// here.
#include <hdf5.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "checkpoint/seal.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace sdp::fuzz {

namespace {

herr_t note_name(hid_t, char const* name, H5O_info_t const*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

herr_t note_attribute(hid_t, char const* name, H5A_info_t const*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

std::string strange_name(Random& random) {
  const std::string names[] = {"x",
                               "model",
                               "model/lm_head.weight",
                               "optimizer",
                               "optimizer/exp_avg",
                               "crc/model",
                               "config",
                               "state",
                               "a\nb",
                               "\x1b[31m",
                               "\xff\xfe",
                               std::string(3000, 'n'),
                               "model/" + std::string(300, 'n'),
                               "model/layers.99999999999999999999.weight"};
  return names[random.below(std::size(names))];
}

std::int64_t strange_integer(Random& random) {
  const std::int64_t values[] = {0,         -1,        1,         2,         3,         7,
                                 65536,     INT32_MAX, INT64_MAX, INT64_MIN, 1LL << 40, 1LL << 31,
                                 1LL << 62, 1 << 20,   12,        37};
  return values[random.below(std::size(values))];
}

hid_t strange_type(Random& random) {
  const hid_t plain[] = {H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_IEEE_F32BE, H5T_STD_I64LE,
                         H5T_STD_U32LE,  H5T_STD_U8LE,   H5T_STD_I64BE};
  const std::uint64_t kind = random.below(12);
  if (kind < 8) return H5Tcopy(plain[random.below(std::size(plain))]);
  if (kind == 8) {
    const hsize_t extent = 1 + random.below(4);
    return H5Tarray_create2(H5T_IEEE_F32LE, 1, &extent);
  }
  if (kind == 9) {
    const hid_t type = H5Tcreate(H5T_COMPOUND, 12);
    H5Tinsert(type, "a", 0, H5T_STD_I64LE);
    H5Tinsert(type, "b", 8, H5T_IEEE_F32LE);
    return type;
  }
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, kind == 10 ? H5T_VARIABLE : 1 + random.below(100));
  return type;
}

hid_t strange_space(Random& random) {
  if (random.one_in(6)) return H5Screate(random.one_in(2) ? H5S_SCALAR : H5S_NULL);
  hsize_t extents[4];
  const int axes = 1 + static_cast<int>(random.below(4));
  for (int i = 0; i < axes; ++i)
    extents[i] = random.one_in(10) ? std::uint64_t{1} << random.below(40) : random.below(40);
  return H5Screate_simple(axes, extents, nullptr);
}

void replace_attribute(hid_t file, std::string const& object, Random& random) {
  std::vector<std::string> names;
  const hid_t owner = H5Oopen(file, object.c_str(), H5P_DEFAULT);
  H5Aiterate2(owner, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, note_attribute, &names);
  if (!names.empty()) {
    const std::string name = names[random.below(names.size())];
    const std::uint64_t how = random.below(8);
    if (how < 4) {  // another value of the same type
      const hid_t attribute = H5Aopen(owner, name.c_str(), H5P_DEFAULT);
      const std::int64_t value = strange_integer(random);
      const double real = how == 0 ? -1.0 : static_cast<double>(value);
      if (H5Awrite(attribute, H5T_NATIVE_INT64, &value) < 0)
        H5Awrite(attribute, H5T_NATIVE_DOUBLE, &real);
      H5Aclose(attribute);
    } else {
      H5Adelete(owner, name.c_str());
      if (how > 4) {
        const hid_t type = strange_type(random);
        const hid_t space = how == 5 ? H5Screate(H5S_SCALAR) : strange_space(random);
        if (H5Sget_simple_extent_npoints(space) < 10000)
          H5Aclose(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT));
        H5Sclose(space);
        H5Tclose(type);
      }
    }
  }
  H5Oclose(owner);
}

void create_dataset(hid_t file, std::string const& name, Random& random) {
  const hid_t type = strange_type(random);
  const hid_t space = strange_space(random);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  hsize_t chunk[] = {4, 4, 4, 4};
  const int axes = H5Sget_simple_extent_ndims(space);
  switch (random.below(6)) {
    case 0:
      H5Pset_layout(creation, H5D_COMPACT);
      break;
    case 1:
      H5Pset_chunk(creation, axes, chunk);
      if (random.one_in(2)) H5Pset_deflate(creation, 1);
      break;
    case 2:
      H5Pset_external(creation, "/dev/zero", 0, H5F_UNLIMITED);
      break;
    case 3: {
      const hid_t source = H5Scopy(space);
      H5Pset_virtual(creation, space, random.one_in(2) ? "." : "none.h5", "model/x", source);
      H5Sclose(source);
      break;
    }
    default:
      H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  }
  H5Dclose(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT));
  H5Pclose(creation);
  H5Sclose(space);
  H5Tclose(type);
}

void edit(hid_t file, Random& random) {
  std::vector<std::string> names;
#if H5_VERSION_GE(1, 12, 0)
  H5Ovisit3(file, H5_INDEX_NAME, H5_ITER_NATIVE, note_name, &names, H5O_INFO_BASIC);
#else
  H5Ovisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, note_name, &names);
#endif
  if (names.empty()) return;
  const std::string name = names[random.below(names.size())];
  const std::string other =
      random.one_in(2) ? names[random.below(names.size())] : strange_name(random);
  const std::uint64_t how = random.below(16);
  if (how < 6) {
    replace_attribute(file, name, random);
    return;
  }
  if (how == 6) {  // the value of one element
    const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset);
    if (H5Sget_simple_extent_npoints(space) < 1 << 20) {
      std::vector<double> values(
          static_cast<std::size_t>(std::max<hssize_t>(H5Sget_simple_extent_npoints(space), 0)));
      if (!values.empty() &&
          H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0) {
        values[random.below(values.size())] += 1.0;
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
      }
    }
    H5Sclose(space);
    H5Dclose(dataset);
    return;
  }
  if (how == 7) {
    H5Lmove(file, name.c_str(), file, other.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    return;
  }
  if (how == 8) {  // two names of one object, or a loop of groups
    H5Lcreate_hard(file, name.c_str(), file, strange_name(random).c_str(), H5P_DEFAULT,
                   H5P_DEFAULT);
    return;
  }
  H5Ldelete(file, name.c_str(), H5P_DEFAULT);
  switch (how) {
    case 9:
      H5Lcreate_soft(("/" + other).c_str(), file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 10:
      H5Lcreate_external("checkpoint.h5", ("/" + other).c_str(), file, name.c_str(), H5P_DEFAULT,
                         H5P_DEFAULT);
      break;
    case 11:
      H5Gclose(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      break;
    case 12:
      H5Ocopy(file, other.c_str(), file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 13:
    case 14:
      create_dataset(file, name, random);
      break;
    default:  // missing
      break;
  }
}

}  // namespace

bool edit_hdf5(std::string& bytes, Random& random) {
  const bool sealed = bytes.size() > seal::k_bytes &&
                      bytes.find(seal::k_mark, bytes.size() - seal::k_bytes) != bytes.npos;
  // A file of its own: the image that HDF5 1.10 gives of a file in memory has a stale checksum.
  const std::string path = scratch_folder() + "/edited";
  std::ofstream(path, std::ios::binary) << bytes;
  H5E_auto2_t function = nullptr;
  void* data = nullptr;
  H5Eget_auto2(H5E_DEFAULT, &function, &data);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  // The format of the checkpoints, with a checksum in every header.
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, access);
  if (file >= 0) {
    edit(file, random);
    H5Fclose(file);
    if (sealed) seal::append(path);
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  H5Pclose(access);
  H5Eset_auto2(H5E_DEFAULT, function, data);
  std::filesystem::remove(path);
  return file >= 0;
}

}  // namespace sdp::fuzz
