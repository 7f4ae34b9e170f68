// SPDX-License-Identifier: Apache-2.0
#include "train/training_state.hpp"

#include <algorithm>

#include "base/memory_ledger.hpp"
#include "kernels/nn/elementwise.hpp"
#include "kernels/random/fill.hpp"

namespace sdp {

namespace {

constexpr index_t k_wide_elements = index_t{1} << 18;  // that are drawn in float at a time

/// Elements [begin, begin + part.extent(0)) of a tensor that starts with normal numbers.
template <class V>
void draw(ExecSpace const& exec, TensorSpec const& tensor, std::uint64_t seed, index_t begin,
          Window1<V> const& part) {
  kernels::fill_normal(exec, seed, kernels::stream_key(tensor.name), begin, 0.0, tensor.init_std,
                       part);
}

template <class V>
void draw_rounded(ExecSpace const& exec, TensorSpec const& tensor, std::uint64_t seed,
                  index_t begin, Window1<V> const& part, View1<kernels::accum_t<V>> const& wide) {
  const auto count = static_cast<index_t>(part.extent(0));
  for (index_t done = 0; done < count; done += k_wide_elements) {
    const index_t some = std::min(k_wide_elements, count - done);
    const Window1<kernels::accum_t<V>> drawn(wide.data(), some);
    draw(exec, tensor, seed, begin + done, drawn);
    kernels::convert(exec, drawn, Window1<V>(part.data() + done, some));
  }
}

}  // namespace

template <class V>
void initial_weights(ExecSpace const& exec, ParameterTable const& table,
                     std::vector<FlatPiece> const& pieces, std::uint64_t seed,
                     View1<V> const& weights) {
  constexpr bool k_narrow = !std::is_same_v<V, kernels::accum_t<V>>;
  View1<kernels::accum_t<V>> wide;
  if constexpr (k_narrow) {
    const MemoryScope scope(MemoryCategory::workspace);
    wide = View1<float>("sdp::train::drawn_weights", k_wide_elements);
  }
  for (FlatPiece const& piece : pieces) {
    TensorSpec const& tensor = table.tensors()[piece.tensor];
    const Window1<V> part(weights.data() + piece.source, piece.count);
    switch (tensor.init) {
      case Init::zeros:
        Kokkos::deep_copy(exec, part, V(0.0f));
        break;
      case Init::ones:
        Kokkos::deep_copy(exec, part, V(1.0f));
        break;
      case Init::normal:
        if constexpr (k_narrow)
          draw_rounded(exec, tensor, seed, piece.begin, part, wide);
        else
          draw(exec, tensor, seed, piece.begin, part);
        break;
    }
  }
}

template void initial_weights<float>(ExecSpace const&, ParameterTable const&,
                                     std::vector<FlatPiece> const&, std::uint64_t,
                                     View1<float> const&);
template void initial_weights<double>(ExecSpace const&, ParameterTable const&,
                                      std::vector<FlatPiece> const&, std::uint64_t,
                                      View1<double> const&);
template void initial_weights<kernels::bf16>(ExecSpace const&, ParameterTable const&,
                                             std::vector<FlatPiece> const&, std::uint64_t,
                                             View1<kernels::bf16> const&);

}  // namespace sdp
