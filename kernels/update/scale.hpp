// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// x(i) = factor * x(i), x (n); the factor is rounded to the type of x first.
template <ExecutionSpace Exec, RowMajor<1> X>
void scale(Exec const& exec, double factor, X const& x) {
  const auto rounded = static_cast<value_t<X>>(factor);
  Kokkos::parallel_for(
      "sdp::kernels::scale", element_policy(exec, static_cast<index_t>(x.extent(0))),
      KOKKOS_LAMBDA(index_t i) { x(i) *= rounded; });
}

}  // namespace sdp::kernels
