// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>

// One set of names for the run-time libraries of CUDA and HIP: SDP_GPU(Malloc) is cudaMalloc or
// hipMalloc. Not defined in builds for neither.

#if defined(KOKKOS_ENABLE_CUDA)
#include <cuda_runtime_api.h>
#define SDP_GPU(name) cuda##name
#define SDP_GPU_STREAM(exec) (exec).cuda_stream()
#elif defined(KOKKOS_ENABLE_HIP)
#include <hip/hip_runtime_api.h>
#define SDP_GPU(name) hip##name
#define SDP_GPU_STREAM(exec) (exec).hip_stream()
#endif
