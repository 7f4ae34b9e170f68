# SPDX-License-Identifier: Apache-2.0
# Every outside package, wrapped in targets with the same names on every site.
#
#   sdp_dep_kokkos         Kokkos core
#   sdp_dep_kokkoskernels  Kokkos Kernels (BLAS)
#   sdp_dep_cudnn          cuDNN and its frontend, where Kokkos has CUDA and both are found
#   sdp_dep_hdf5           parallel HDF5, C API
#   sdp_dep_nccl           NCCL, where Kokkos has CUDA and NCCL is found (SDP_HAVE_NCCL)
#   sdp_dep_sentencepiece  tokenizer run time and trainer
#   sdp_dep_toml, sdp_dep_cli11, sdp_dep_json, sdp_dep_spdlog (fmt comes with it), sdp_dep_zlib,
#   sdp_dep_zstd, sdp_dep_crc (zlib and, where there is one, libdeflate)

find_package(Kokkos CONFIG REQUIRED)
find_package(KokkosKernels CONFIG REQUIRED)
include(SdpKokkos)
include(SdpCudnn)

if(SDP_BUILD_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()
if(SDP_BUILD_BENCHMARKS)
  find_package(benchmark CONFIG REQUIRED)
endif()

if(SDP_KERNELS_ONLY)
  return()
endif()

find_package(Threads REQUIRED)
find_package(MPI 3.0 REQUIRED COMPONENTS CXX)
find_package(PkgConfig REQUIRED)

set(SDP_HAVE_NCCL false)
if(SDP_NCCL AND "CUDA" IN_LIST Kokkos_DEVICES)
  find_package(NCCL)
  if(NCCL_FOUND)
    set(SDP_HAVE_NCCL true)
    add_library(sdp_dep_nccl INTERFACE)
    target_include_directories(sdp_dep_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
    target_link_libraries(sdp_dep_nccl INTERFACE ${NCCL_LIBRARY})
  endif()
endif()

# The parallel HDF5 of Debian and Ubuntu is found by pkg-config, so that a serial HDF5 beside it is
# not taken; elsewhere FindHDF5 is asked for the parallel one.
add_library(sdp_dep_hdf5 INTERFACE)
if(NOT HDF5_ROOT)
  pkg_check_modules(SDP_HDF5 QUIET IMPORTED_TARGET hdf5-openmpi)
  if(NOT SDP_HDF5_FOUND)
    pkg_check_modules(SDP_HDF5 QUIET IMPORTED_TARGET hdf5-mpich)
  endif()
endif()
if(SDP_HDF5_FOUND)
  set(HDF5_VERSION "${SDP_HDF5_VERSION}")
  target_include_directories(sdp_dep_hdf5 SYSTEM INTERFACE ${SDP_HDF5_INCLUDE_DIRS})
  target_link_libraries(sdp_dep_hdf5 INTERFACE ${SDP_HDF5_LINK_LIBRARIES})
else()
  set(HDF5_PREFER_PARALLEL ON)
  find_package(HDF5 REQUIRED COMPONENTS C)
  if(NOT HDF5_IS_PARALLEL)
    message(FATAL_ERROR "sdp needs an HDF5 with MPI; found a serial one in ${HDF5_INCLUDE_DIRS}")
  endif()
  target_include_directories(sdp_dep_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
  target_link_libraries(sdp_dep_hdf5 INTERFACE ${HDF5_LIBRARIES})
endif()
target_link_libraries(sdp_dep_hdf5 INTERFACE MPI::MPI_CXX)

# Not by pkg-config: on Debian 13 that file asks for protobuf's, which its headers do not need.
find_path(SDP_SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h REQUIRED)
find_library(SDP_SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(SDP_SENTENCEPIECE_TRAIN sentencepiece_train REQUIRED)
add_library(sdp_dep_sentencepiece INTERFACE)
target_include_directories(sdp_dep_sentencepiece SYSTEM INTERFACE ${SDP_SENTENCEPIECE_INCLUDE_DIR})
target_link_libraries(sdp_dep_sentencepiece INTERFACE ${SDP_SENTENCEPIECE_LIBRARY}
                                                      ${SDP_SENTENCEPIECE_TRAIN})

pkg_check_modules(SDP_ZSTD REQUIRED IMPORTED_TARGET libzstd)
add_library(sdp_dep_zstd INTERFACE)
target_link_libraries(sdp_dep_zstd INTERFACE PkgConfig::SDP_ZSTD)
find_package(ZLIB REQUIRED)
add_library(sdp_dep_zlib INTERFACE)
target_link_libraries(sdp_dep_zlib INTERFACE ZLIB::ZLIB)
# The same CRC-32 as zlib's at several times the speed; zlib's is taken where it is missing.
pkg_check_modules(SDP_DEFLATE QUIET IMPORTED_TARGET libdeflate)
add_library(sdp_dep_crc INTERFACE)
target_link_libraries(sdp_dep_crc INTERFACE sdp_dep_zlib)
if(SDP_DEFLATE_FOUND)
  target_link_libraries(sdp_dep_crc INTERFACE PkgConfig::SDP_DEFLATE)
  target_compile_definitions(sdp_dep_crc INTERFACE SDP_HAVE_LIBDEFLATE)
else()
  set(SDP_DEFLATE_VERSION "none (checksums by zlib)")
endif()

# Header-only parsers; the TOML parser is used header-only so that the compiler's standard library
# decides, not the packaged binary's.
find_path(SDP_TOMLPLUSPLUS_INCLUDE_DIR toml++/toml.h REQUIRED)
add_library(sdp_dep_toml INTERFACE)
target_include_directories(sdp_dep_toml SYSTEM INTERFACE ${SDP_TOMLPLUSPLUS_INCLUDE_DIR})
find_path(SDP_CLI11_INCLUDE_DIR CLI/CLI.hpp REQUIRED)
add_library(sdp_dep_cli11 INTERFACE)
target_include_directories(sdp_dep_cli11 SYSTEM INTERFACE ${SDP_CLI11_INCLUDE_DIR})
find_path(SDP_NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp REQUIRED)
add_library(sdp_dep_json INTERFACE)
target_include_directories(sdp_dep_json SYSTEM INTERFACE ${SDP_NLOHMANN_JSON_INCLUDE_DIR})
find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
add_library(sdp_dep_spdlog INTERFACE)
target_link_libraries(sdp_dep_spdlog INTERFACE spdlog::spdlog fmt::fmt)
