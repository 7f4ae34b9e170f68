// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// count = number of elements of x that are infinite or not a number.
///
/// x (n) of any storage type; count a rank-0 View of index_t, overwritten.
template <ExecutionSpace Exec, RowMajor<1> X, ViewOfRank<0> Count>
void count_not_finite(Exec const& exec, X const& x, Count const& count) {
  static_assert(std::is_same_v<value_t<Count>, index_t>,
                "count_not_finite: the count must be index_t");
  Kokkos::parallel_reduce(
      "sdp::kernels::count_not_finite", element_policy(exec, static_cast<index_t>(x.extent(0))),
      KOKKOS_LAMBDA(index_t i, index_t & found) {
        // A difference of a finite number with itself is zero; of the others it is NaN.
        const auto value = static_cast<double>(x(i));
        found += value - value == 0.0 ? 0 : 1;
      },
      count);
}

}  // namespace sdp::kernels
