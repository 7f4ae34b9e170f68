// SPDX-License-Identifier: Apache-2.0
// Damage to checkpoints that needs HDF5 to be done:
//   damage_checkpoint missing FILE DATASET | version FILE NUMBER | foreign FILE
#include <hdf5.h>

#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  const bool foreign = what == "foreign";
  const hid_t file = foreign ? H5Fcreate(argv[2], H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT)
                             : H5Fopen(argc > 3 ? argv[2] : "", H5F_ACC_RDWR, H5P_DEFAULT);
  herr_t status = -1;
  if (foreign) {
    status = H5Gclose(H5Gcreate2(file, "model", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  } else if (what == "missing") {
    status = H5Ldelete(file, argv[3], H5P_DEFAULT);
  } else if (what == "version") {
    const hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
    const long long version = std::atoll(argv[3]);
    status = H5Awrite(attribute, H5T_NATIVE_LLONG, &version);
    H5Aclose(attribute);
  }
  const bool done = status >= 0 && H5Fclose(file) >= 0;
  if (!done) std::fprintf(stderr, "damage_checkpoint: nothing was damaged\n");
  return done ? 0 : 1;
}
