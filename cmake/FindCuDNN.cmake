# SPDX-License-Identifier: Apache-2.0
# cuDNN with its header-only frontend and the NVRTC that this calls: CuDNN_FOUND, CuDNN_VERSION,
# CuDNN_INCLUDE_DIR, CuDNN_LIBRARY, CuDNN_NVRTC_LIBRARY, CuDNN_FRONTEND_VERSION,
# CuDNN_FRONTEND_INCLUDE_DIR, and the target CuDNN::cudnn. Searched in CuDNN_ROOT, in
# cudnn_frontend_ROOT and beside the CUDA toolkit that Kokkos was built with.
find_path(CuDNN_INCLUDE_DIR cudnn_version.h HINTS ${CUDAToolkit_INCLUDE_DIRS}
                                                  /usr/local/cuda/include)
find_library(CuDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR}
                                                           /usr/local/cuda/lib64)
find_library(CuDNN_NVRTC_LIBRARY nvrtc HINTS ${CUDAToolkit_LIBRARY_DIR} /usr/local/cuda/lib64)
find_path(CuDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
          HINTS ${cudnn_frontend_ROOT} ENV cudnn_frontend_ROOT PATH_SUFFIXES include)
# "9.19.0" from lines of the form #define CUDNN_MAJOR 9
function(_cudnn_version header result)
  set(version "")
  if(EXISTS "${header}")
    file(STRINGS "${header}" lines
         REGEX "^#define CUDNN_(FRONTEND_)?(MAJOR|MINOR|PATCHLEVEL|(MAJOR|MINOR|PATCH)_VERSION) +[0-9]+")
    list(TRANSFORM lines REPLACE "^[^0-9]*([0-9]+).*$" "\\1")
    list(JOIN lines "." version)
  endif()
  set(${result} "${version}" PARENT_SCOPE)
endfunction()
_cudnn_version("${CuDNN_INCLUDE_DIR}/cudnn_version.h" CuDNN_VERSION)
_cudnn_version("${CuDNN_FRONTEND_INCLUDE_DIR}/cudnn_frontend_version.h" CuDNN_FRONTEND_VERSION)
# Older frontends lack set_generate_stats.
if(CuDNN_FRONTEND_VERSION VERSION_GREATER_EQUAL 1.13)
  set(CuDNN_FRONTEND_IS_1_13 true)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  CuDNN REQUIRED_VARS CuDNN_LIBRARY CuDNN_INCLUDE_DIR CuDNN_NVRTC_LIBRARY
                      CuDNN_FRONTEND_INCLUDE_DIR CuDNN_FRONTEND_IS_1_13
  VERSION_VAR CuDNN_VERSION)
if(CuDNN_FOUND AND NOT TARGET CuDNN::cudnn)
  add_library(CuDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(
    CuDNN::cudnn
    PROPERTIES IMPORTED_LOCATION "${CuDNN_LIBRARY}"
               INTERFACE_INCLUDE_DIRECTORIES "${CuDNN_FRONTEND_INCLUDE_DIR};${CuDNN_INCLUDE_DIR}"
               INTERFACE_LINK_LIBRARIES "${CuDNN_NVRTC_LIBRARY};${CMAKE_DL_LIBS}")
endif()
mark_as_advanced(CuDNN_INCLUDE_DIR CuDNN_LIBRARY CuDNN_NVRTC_LIBRARY CuDNN_FRONTEND_INCLUDE_DIR)
