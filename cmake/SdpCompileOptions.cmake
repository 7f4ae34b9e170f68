# SPDX-License-Identifier: Apache-2.0
# sdp_options: flags and warnings that every target of the project is compiled with. It is never
# exported: a user of the kernel package chooses flags for themselves.

add_library(sdp_options INTERFACE)
target_compile_features(sdp_options INTERFACE cxx_std_20)

include(CheckCXXCompilerFlag)
if(SDP_NATIVE)
  check_cxx_compiler_flag(-march=native SDP_HAVE_MARCH_NATIVE)
  if(SDP_HAVE_MARCH_NATIVE)
    target_compile_options(sdp_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  endif()
endif()
# Kernels are what takes time at run time; in code that only calls them, and in tests, full
# optimisation takes time at compile time: a target may say less in SDP_OPTIMIZATION.
define_property(TARGET PROPERTY SDP_OPTIMIZATION BRIEF_DOCS "-O option of the release build")
# nvcc takes one such option alone, and has CMake's.
if(NOT "CUDA" IN_LIST Kokkos_DEVICES)
  set(sdp_optimization $<TARGET_PROPERTY:SDP_OPTIMIZATION>)
  target_compile_options(
    sdp_options
    INTERFACE $<$<CONFIG:Release>:$<IF:$<BOOL:${sdp_optimization}>,${sdp_optimization},-O3>>)
endif()
# Loops with a square root do not vectorise while it has to report errors through errno. This changes
# no result.
target_compile_options(sdp_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno>)

target_compile_options(sdp_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                                             -Woverloaded-virtual -Wunused)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  # False findings inside std::string concatenation (GCC bug 105651).
  target_compile_options(sdp_options INTERFACE -Wno-restrict -Wno-stringop-overflow)
endif()
if(SDP_WARNINGS_AS_ERRORS)
  target_compile_options(sdp_options INTERFACE -Werror)
endif()
if(SDP_SANITIZE)
  target_compile_options(sdp_options INTERFACE -fsanitize=address,undefined
                                               -fno-sanitize-recover=undefined
                                               -fno-omit-frame-pointer)
  target_link_options(sdp_options INTERFACE -fsanitize=address,undefined)
endif()

# Compilers for devices do not precompile headers for both sides.
if("CUDA" IN_LIST Kokkos_DEVICES OR "HIP" IN_LIST Kokkos_DEVICES OR "SYCL" IN_LIST Kokkos_DEVICES)
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()
# fmt 9 takes constexpr from half of its functions when it sees nvcc, which leaves the compile-time
# check of format strings calling functions that are not.
if("CUDA" IN_LIST Kokkos_DEVICES)
  target_compile_definitions(sdp_options INTERFACE FMT_USE_CONSTEXPR=1)
endif()

# sdp_pch: one precompiled header for all targets with the application's flags; a Kokkos translation
# unit spends three quarters of its time in these headers otherwise.
function(sdp_use_pch target)
  if(TARGET sdp_pch AND NOT SDP_SANITIZE)
    target_link_libraries(${target} PRIVATE fmt::fmt)  # its definitions are part of the header
    target_precompile_headers(${target} REUSE_FROM sdp_pch)
  endif()
endfunction()
if(NOT SDP_KERNELS_ONLY)
  file(WRITE "${PROJECT_BINARY_DIR}/generated/sdp_pch.cpp.in" "// precompiled header carrier\n")
  file(COPY_FILE "${PROJECT_BINARY_DIR}/generated/sdp_pch.cpp.in"
       "${PROJECT_BINARY_DIR}/generated/sdp_pch.cpp" ONLY_IF_DIFFERENT)
  add_library(sdp_pch STATIC "${PROJECT_BINARY_DIR}/generated/sdp_pch.cpp")
  target_link_libraries(sdp_pch PUBLIC sdp_options sdp_dep_kokkos)
  set_target_properties(sdp_pch PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_precompile_headers(sdp_pch PRIVATE <Kokkos_Core.hpp> <algorithm> <array> <cstdint>
                            <filesystem> <functional> <memory> <optional> <stdexcept> <string>
                            <string_view> <utility> <vector> <fmt/core.h>)
  target_link_libraries(sdp_pch PRIVATE fmt::fmt)
endif()

# sdp_unite(TARGET): compiles the sources of a target in groups, because every translation unit
# instantiates the same templates again.
function(sdp_unite target)
  if(SDP_UNITY_BUILD)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 5)
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
      # What it warns of in headers is no danger in sources, which look like headers here.
      target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
    endif()
  endif()
endfunction()

# sdp_host_sources(files...): sources that see no Kokkos, which the compilers for devices are told to
# take as plain C++: nvcc's own front end cannot read the TOML parser, the clang of ROCm 5 cannot read
# CLI11 for a device, and all of them take longer. hipcc would compile every source for both sides,
# those of targets without Kokkos too.
function(sdp_host_sources)
  if(CMAKE_CXX_COMPILER MATCHES "nvcc_wrapper$")
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS --host-only)
  elseif(CMAKE_CXX_COMPILER MATCHES "hipcc$")
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS -xc++)
  endif()
endfunction()

# sdp_add_layer(NAME [NO_KERNELS] sources... LINKS targets...): the static library of one folder of
# src/. NO_KERNELS: no loop over elements of a model is compiled here.
function(sdp_add_layer name)
  cmake_parse_arguments(ARG "NO_KERNELS" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(sdp_${name} STATIC ${ARG_SOURCES})
  add_library(sdp::${name} ALIAS sdp_${name})
  target_include_directories(sdp_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(sdp_${name} PUBLIC sdp_options ${ARG_LINKS} PRIVATE ${ARG_PRIVATE_LINKS})
  if(ARG_NO_KERNELS)
    set_target_properties(sdp_${name} PROPERTIES SDP_OPTIMIZATION -O2)
  endif()
  sdp_use_pch(sdp_${name})
  sdp_unite(sdp_${name})
endfunction()
