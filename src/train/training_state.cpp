// SPDX-License-Identifier: Apache-2.0
#include "train/training_state.hpp"

#include "kernels/random/fill.hpp"

namespace sdp {

template <class V>
void initial_weights(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed,
                     View1<V> const& weights) {
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
}

template void initial_weights<float>(ExecSpace const&, ParameterTable const&, std::uint64_t,
                                     View1<float> const&);
template void initial_weights<double>(ExecSpace const&, ParameterTable const&, std::uint64_t,
                                      View1<double> const&);

}  // namespace sdp
