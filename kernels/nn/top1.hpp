// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// correct(n) = 1 where the largest of logits(n,:) stands at column targets(n), else 0; of equal
/// largest ones the first counts, and a row with NaN is not correct.
///
/// logits (N,K), targets (N) int32, correct (N) int32, overwritten. Throws ShapeError when the
/// extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> Logits, RowMajor<1> Targets, RowMajor<1> Correct>
void top1_correct(Exec const& exec, Logits const& logits, Targets const& targets,
                  Correct const& correct) {
  constexpr char const* k_name = "sdp::kernels::top1_correct";
  static_assert(std::is_same_v<value_t<Targets>, std::int32_t> &&
                    std::is_same_v<value_t<Correct>, std::int32_t>,
                "top1_correct: targets and correct must be int32");
  const auto rows = static_cast<index_t>(logits.extent(0));
  const auto cols = static_cast<index_t>(logits.extent(1));
  require_extent(k_name, "targets", targets, 0, rows);
  require_extent(k_name, "correct", correct, 0, rows);
  Kokkos::parallel_for(
      k_name, element_policy(exec, rows), KOKKOS_LAMBDA(index_t n) {
        index_t best = 0;
        bool ordered = true;
        for (index_t j = 0; j < cols; ++j) {
          ordered = ordered && logits(n, j) == logits(n, j);
          if (logits(n, j) > logits(n, best)) best = j;
        }
        correct(n) = ordered && best == static_cast<index_t>(targets(n)) ? 1 : 0;
      });
}

}  // namespace sdp::kernels
