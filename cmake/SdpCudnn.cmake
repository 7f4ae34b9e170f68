# SPDX-License-Identifier: Apache-2.0
# sdp_dep_cudnn, SDP_HAVE_CUDNN: cuDNN and its header-only frontend for attention, where SDP_CUDNN is
# on, Kokkos has CUDA and both are found. Used by the project's own build and by its installed package.
#
# The frontend without JSON: its graphs are not written to files here.
set(SDP_HAVE_CUDNN false)
if(SDP_CUDNN AND "CUDA" IN_LIST Kokkos_DEVICES)
  find_package(CuDNN 9.0)
  if(CuDNN_FOUND)
    set(SDP_HAVE_CUDNN true)
    if(NOT TARGET sdp_dep_cudnn)
      add_library(sdp_dep_cudnn INTERFACE IMPORTED GLOBAL)
      target_include_directories(sdp_dep_cudnn SYSTEM INTERFACE ${CuDNN_FRONTEND_INCLUDE_DIR}
                                                                ${CuDNN_INCLUDE_DIR})
      target_compile_definitions(sdp_dep_cudnn INTERFACE SDP_HAVE_CUDNN CUDNN_FRONTEND_SKIP_JSON_LIB)
      target_link_libraries(sdp_dep_cudnn INTERFACE ${CuDNN_LIBRARY} ${CuDNN_NVRTC_LIBRARY}
                                                    ${CMAKE_DL_LIBS})
    endif()
  endif()
endif()
