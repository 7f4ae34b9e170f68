# SPDX-License-Identifier: Apache-2.0
# Writes generated/version.cpp with the commit that is built; runs at configure time.
set(SDP_GIT_HASH "unknown")
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(
    COMMAND "${GIT_EXECUTABLE}" describe --always --dirty --abbrev=12
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE _sdp_hash
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _sdp_git_result)
  if(_sdp_git_result EQUAL 0)
    set(SDP_GIT_HASH "${_sdp_hash}")
  endif()
endif()
configure_file("${PROJECT_SOURCE_DIR}/src/base/version.cpp.in"
               "${PROJECT_BINARY_DIR}/generated/version.cpp" @ONLY)
