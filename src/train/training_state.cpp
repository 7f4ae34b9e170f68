// SPDX-License-Identifier: Apache-2.0
#include "train/training_state.hpp"

#include "base/memory_ledger.hpp"
#include "kernels/random/fill.hpp"

namespace sdp {

template <class V>
View1<V> initial_weights(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed) {
  MemoryScope scope(MemoryCategory::weights);
  View1<V> weights(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::train::weights"),
                   table.size());
  for (Span const& span : table.spans()) {
    TensorSpec const& tensor = table.tensors()[span.tensor];
    const Window1<V> part(weights.data() + span.offset, span.rows * tensor.cols);
    switch (tensor.init) {
      case Init::zeros:
        Kokkos::deep_copy(exec, part, V(0));
        break;
      case Init::ones:
        Kokkos::deep_copy(exec, part, V(1));
        break;
      case Init::normal:
        kernels::fill_normal(exec, seed, kernels::stream_key(tensor.name),
                             span.row_begin * tensor.cols, 0.0, tensor.init_std, part);
        break;
    }
  }
  return weights;
}

template View1<float> initial_weights<float>(ExecSpace const&, ParameterTable const&,
                                             std::uint64_t);
template View1<double> initial_weights<double>(ExecSpace const&, ParameterTable const&,
                                               std::uint64_t);

}  // namespace sdp
