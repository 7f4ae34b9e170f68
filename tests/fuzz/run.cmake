# SPDX-License-Identifier: Apache-2.0
# cmake -D SOURCE_DIR=... -D WORK_DIR=... -D GENERATOR=... -D CXX_COMPILER=... -D CXX_LAUNCHER=...
#       -D Kokkos_DIR=... -D KokkosKernels_DIR=... -D "WRITE_SEEDS=..." -D "FILES=..." -P run.cmake
# Builds the fuzz program (only what has changed since the last time) and writes its seeds.
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run("${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${SOURCE_DIR}" -B "${WORK_DIR}" -D
    CMAKE_BUILD_TYPE=None -D "CMAKE_CXX_COMPILER=${CXX_COMPILER}" -D
    "CMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER}" -D "Kokkos_DIR=${Kokkos_DIR}" -D
    "KokkosKernels_DIR=${KokkosKernels_DIR}")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}" --target fuzz_readers)
run(${WRITE_SEEDS} "${WORK_DIR}/seeds" ${FILES})
