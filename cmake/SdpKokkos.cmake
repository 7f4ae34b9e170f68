# SPDX-License-Identifier: Apache-2.0
# sdp_dep_kokkos, sdp_dep_kokkoskernels: one name each for what find_package(Kokkos) and
# find_package(KokkosKernels) have found. Used by the project's own build and by its installed package.
#
# Debian's Trilinos packages name an include folder that does not exist in Kokkos::kokkos and have no
# Kokkos::kokkoskernels, so the targets of a stand-alone install are used only where both exist.
if(NOT TARGET sdp_dep_kokkos)
  if(Kokkos_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "sdp needs Kokkos 3.4 or newer; found ${Kokkos_VERSION} in ${Kokkos_DIR}")
  endif()
  add_library(sdp_dep_kokkos INTERFACE IMPORTED GLOBAL)
  add_library(sdp_dep_kokkoskernels INTERFACE IMPORTED GLOBAL)
  if(TARGET Kokkos::kokkoskernels)
    target_link_libraries(sdp_dep_kokkos INTERFACE Kokkos::kokkos)
    target_link_libraries(sdp_dep_kokkoskernels INTERFACE Kokkos::kokkoskernels)
  else()
    target_include_directories(sdp_dep_kokkos SYSTEM INTERFACE ${Kokkos_INCLUDE_DIRS})
    target_link_libraries(sdp_dep_kokkos INTERFACE ${Kokkos_LIBRARIES})
    target_include_directories(sdp_dep_kokkoskernels SYSTEM INTERFACE ${KokkosKernels_INCLUDE_DIRS})
    target_link_libraries(sdp_dep_kokkoskernels INTERFACE ${KokkosKernels_LIBRARIES})
  endif()
  target_link_libraries(sdp_dep_kokkoskernels INTERFACE sdp_dep_kokkos)
  # The products of a build for CUDA (kernels/blas/cublas_lt_gemm.hpp).
  if("CUDA" IN_LIST Kokkos_DEVICES)
    find_package(CUDAToolkit REQUIRED)
    target_link_libraries(sdp_dep_kokkoskernels INTERFACE CUDA::cublasLt)
  endif()
endif()
