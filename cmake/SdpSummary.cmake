# SPDX-License-Identifier: Apache-2.0
# What configure found, in one block.
list(JOIN Kokkos_DEVICES ", " sdp_devices)
# Packaged ones do not tell their version.
set(_sdp_kokkos_kernels "${KokkosKernels_VERSION}")
if(NOT _sdp_kokkos_kernels)
  set(_sdp_kokkos_kernels "of unknown version")
endif()
set(_sdp_lines
    "sdp ${PROJECT_VERSION}"
    "  build type        ${CMAKE_BUILD_TYPE} (native tuning ${SDP_NATIVE}, sanitizers ${SDP_SANITIZE}, warnings as errors ${SDP_WARNINGS_AS_ERRORS})"
    "  compiler          ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
    "  Kokkos            ${Kokkos_VERSION} (${sdp_devices}) in ${Kokkos_DIR}"
    "  Kokkos Kernels    ${_sdp_kokkos_kernels} in ${KokkosKernels_DIR}")
if(SDP_HAVE_CUDNN)
  set(_sdp_cudnn "${CuDNN_VERSION} (${CuDNN_LIBRARY}), frontend ${CuDNN_FRONTEND_VERSION}")
else()
  set(_sdp_cudnn "none")
endif()
list(APPEND _sdp_lines "  cuDNN (attention) ${_sdp_cudnn}")
if(TARGET CUDA::cublasLt)
  list(APPEND _sdp_lines "  cuBLASLt          of CUDA ${CUDAToolkit_VERSION} in ${CUDAToolkit_LIBRARY_DIR}")
endif()
if(SDP_HAVE_NCCL)
  set(_sdp_nccl "${NCCL_VERSION} (${NCCL_LIBRARY})")
else()
  set(_sdp_nccl "none")
endif()
if(NOT SDP_KERNELS_ONLY)
  list(APPEND _sdp_lines
       "  MPI               ${MPI_CXX_VERSION} (${MPI_CXX_COMPILER})"
       "  NCCL              ${_sdp_nccl}"
       "  HDF5 (parallel)   ${HDF5_VERSION}"
       "  sentencepiece     ${SDP_SENTENCEPIECE_LIBRARY}"
       "  fmt, spdlog       ${fmt_VERSION}, ${spdlog_VERSION}"
       "  toml++, CLI11     ${SDP_TOMLPLUSPLUS_INCLUDE_DIR}, ${SDP_CLI11_INCLUDE_DIR}"
       "  nlohmann-json     ${SDP_NLOHMANN_JSON_INCLUDE_DIR}"
       "  zlib, zstd        ${ZLIB_VERSION_STRING}, ${SDP_ZSTD_VERSION}"
       "  libdeflate        ${SDP_DEFLATE_VERSION}")
endif()
list(APPEND _sdp_lines "  tests             ${SDP_BUILD_TESTS}" "  benchmarks        ${SDP_BUILD_BENCHMARKS}")
foreach(_line IN LISTS _sdp_lines)
  message(STATUS "${_line}")
endforeach()
