// SPDX-License-Identifier: Apache-2.0
#include "models/model.hpp"

#include "models/llama.hpp"
#include "models/resnet.hpp"

namespace sdp {

template <class V>
std::unique_ptr<Model<V>> make_model(ModelConfig const& config, ModelSubnetwork const& subnetwork,
                                     index_t max_batch, index_t max_seq_len, bool with_backward,
                                     bool deterministic) {
  if (config.kind == ModelKind::llama)
    return std::make_unique<Llama<V>>(config.llama, subnetwork, max_batch, max_seq_len,
                                      config.recompute, with_backward, deterministic);
  // Its kernels know one order of sums alone.
  return std::make_unique<Resnet<V>>(config.resnet, subnetwork, max_batch, with_backward);
}

template std::unique_ptr<Model<float>> make_model<float>(ModelConfig const&, ModelSubnetwork const&,
                                                         index_t, index_t, bool, bool);
template std::unique_ptr<Model<double>> make_model<double>(ModelConfig const&,
                                                           ModelSubnetwork const&, index_t, index_t,
                                                           bool, bool);
template std::unique_ptr<Model<kernels::bf16>> make_model<kernels::bf16>(ModelConfig const&,
                                                                         ModelSubnetwork const&,
                                                                         index_t, index_t, bool,
                                                                         bool);

}  // namespace sdp
