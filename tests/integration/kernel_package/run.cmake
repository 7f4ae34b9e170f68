# SPDX-License-Identifier: Apache-2.0
# cmake -D BUILD_DIR=... -D WORK_DIR=... -D CONSUMER_DIR=... -D GENERATOR=... -D CXX_COMPILER=...
#       -D Kokkos_DIR=... -D KokkosKernels_DIR=... -P run.cmake
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${WORK_DIR}/prefix" --component sdp_kernels)
run("${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CONSUMER_DIR}" -B "${WORK_DIR}/build" -D
    CMAKE_BUILD_TYPE=Release -D "CMAKE_CXX_COMPILER=${CXX_COMPILER}" -D
    "CMAKE_PREFIX_PATH=${WORK_DIR}/prefix" -D "Kokkos_DIR=${Kokkos_DIR}" -D
    "KokkosKernels_DIR=${KokkosKernels_DIR}")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build")
run("${WORK_DIR}/build/consumer")
