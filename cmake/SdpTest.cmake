# SPDX-License-Identifier: Apache-2.0
# sdp_add_test(NAME name SOURCES a_test.cpp... LINKS targets... [LABELS unit|grad|mpi|regression|...]
#              [RANKS 1 2 4] [TIMEOUT seconds])
#
# One GoogleTest executable per folder under tests/. Without RANKS the executable starts as one
# process without MPI and ctest knows it as NAME. With RANKS its main initialises MPI, and ctest runs
# it once per rank count as NAME.<ranks>. Labels default to "unit" ("mpi" with RANKS).

# Everything a test must not inherit from the machine: oversubscription, root, and thread counts.
# Idle threads sleep, because the ranks of a test share cores, and messages stay in memory: Open MPI
# complains about networks that lead nowhere. Open MPI 4 reads the OMPI_MCA settings for placement,
# Open MPI 5 the PRTE_MCA ones.
set(SDP_TEST_ENVIRONMENT
    OMP_NUM_THREADS=${SDP_TEST_THREADS} OPENBLAS_NUM_THREADS=${SDP_TEST_THREADS}
    OMP_PROC_BIND=false OMP_WAIT_POLICY=passive KOKKOS_DISABLE_WARNINGS=1 OMPI_ALLOW_RUN_AS_ROOT=1
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    OMPI_MCA_hwloc_base_binding_policy=none
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
    OMPI_MCA_btl=^tcp OMPI_MCA_btl_base_warn_component_unused=0
    OMPI_MCA_mpi_yield_when_idle=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1)

function(sdp_mpi_command out ranks)
  set(${out} ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${MPIEXEC_PREFLAGS} PARENT_SCOPE)
endfunction()

# Sanitizers make programs several times slower.
function(sdp_test_timeout seconds)
  if(SDP_SANITIZE)
    math(EXPR ${seconds} "3 * ${${seconds}}")
    set(${seconds} ${${seconds}} PARENT_SCOPE)
  endif()
endfunction()

function(sdp_add_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;LINKS;LABELS;RANKS" ${ARGN})
  set(target test_${ARG_NAME})
  add_executable(${target} ${ARG_SOURCES})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY
                                             "${PROJECT_BINARY_DIR}/tests/bin" SDP_OPTIMIZATION -O1)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  sdp_test_timeout(ARG_TIMEOUT)
  if(NOT ARG_RANKS)
    target_link_libraries(${target} PRIVATE ${ARG_LINKS} sdp_test_main)
    sdp_use_test_pch(${target})
    if(NOT ARG_LABELS)
      set(ARG_LABELS unit)
    endif()
    add_test(NAME ${ARG_NAME} COMMAND ${target})
    set_tests_properties(${ARG_NAME} PROPERTIES ENVIRONMENT "${SDP_TEST_ENVIRONMENT}" LABELS
                                                "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
                                                PROCESSORS ${SDP_TEST_THREADS})
    return()
  endif()
  target_link_libraries(${target} PRIVATE ${ARG_LINKS} sdp_test_main_mpi)
  sdp_use_test_pch(${target})
  if(NOT ARG_LABELS)
    set(ARG_LABELS mpi)
  endif()
  foreach(ranks IN LISTS ARG_RANKS)
    if(ranks LESS_EQUAL SDP_TEST_MAX_RANKS)
      math(EXPR cores "${ranks} * ${SDP_TEST_THREADS}")
      sdp_mpi_command(launch ${ranks})
      add_test(NAME ${ARG_NAME}.${ranks} COMMAND ${launch} $<TARGET_FILE:${target}>)
      set_tests_properties(
        ${ARG_NAME}.${ranks} PROPERTIES ENVIRONMENT "${SDP_TEST_ENVIRONMENT}" LABELS
                                        "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${cores})
    endif()
  endforeach()
endfunction()

# sdp_add_script(NAME name RANKS most [LABELS label] [TIMEOUT seconds] [CONFIGURATIONS name]
#                SCRIPT file [ARGUMENTS...]): runs `bash file sdp ARGUMENTS... launcher...`, where the
# word RANKS of the launcher stands for the number of ranks. Labels default to "regression".
function(sdp_add_script)
  cmake_parse_arguments(ARG "" "NAME;RANKS;LABELS;TIMEOUT;CONFIGURATIONS;SCRIPT" "ARGUMENTS" ${ARGN})
  if(NOT TARGET sdp OR SDP_TEST_MAX_RANKS LESS ARG_RANKS)
    return()
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS regression)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  sdp_test_timeout(ARG_TIMEOUT)
  set(configurations)
  if(ARG_CONFIGURATIONS)
    set(configurations CONFIGURATIONS ${ARG_CONFIGURATIONS})
  endif()
  sdp_mpi_command(launch RANKS)
  add_test(NAME ${ARG_NAME} ${configurations}
           COMMAND bash "${CMAKE_CURRENT_SOURCE_DIR}/${ARG_SCRIPT}" $<TARGET_FILE:sdp>
                   ${ARG_ARGUMENTS} ${launch})
  set_tests_properties(
    ${ARG_NAME} PROPERTIES ENVIRONMENT "${SDP_TEST_ENVIRONMENT}" LABELS "${ARG_LABELS}" TIMEOUT
                                       ${ARG_TIMEOUT} PROCESSORS ${ARG_RANKS})
endfunction()
