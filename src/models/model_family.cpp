// SPDX-License-Identifier: Apache-2.0
#include "models/model_family.hpp"

#include "models/llama_costs.hpp"
#include "models/llama_tensors.hpp"
#include "models/llama_units.hpp"
#include "models/resnet_costs.hpp"
#include "models/resnet_tensors.hpp"
#include "models/resnet_units.hpp"

namespace sdp {

namespace {

bool is_llama(ModelConfig const& model) {
  return model.kind == ModelKind::llama;
}

}  // namespace

std::vector<TensorSpec> model_tensors(ModelConfig const& model) {
  return is_llama(model) ? llama_tensors(model.llama) : resnet_tensors(model.resnet);
}

UnitSet model_units(ModelConfig const& model, SdpConfig const& sdp) {
  return is_llama(model) ? llama_units(model.llama, sdp) : resnet_units(model.resnet, sdp);
}

std::vector<double> model_branch_scales(ModelConfig const& model, SdpConfig const& sdp,
                                        UnitSet const& units, double inverse_keep) {
  return is_llama(model) ? llama_branch_scales(model.llama, sdp, units, inverse_keep)
                         : resnet_branch_scales(model.resnet, sdp, units, inverse_keep);
}

SampleFlops model_sample_flops(ModelConfig const& model, ParameterTable const& weights,
                               ParameterTable const& gradients, index_t seq_len) {
  return is_llama(model) ? llama_sample_flops(model.llama, weights, gradients, seq_len)
                         : resnet_sample_flops(model.resnet, weights, gradients);
}

std::int64_t model_activation_bytes(ModelConfig const& model, ParameterTable const& weights,
                                    ParameterTable const& gradients, index_t max_batch,
                                    index_t max_seq_len, std::size_t element_bytes) {
  if (is_llama(model))
    return llama_activation_bytes(model.llama, weights, gradients, max_batch, max_seq_len,
                                  model.recompute, element_bytes)
        .total();
  return resnet_activation_bytes(model.resnet, weights, gradients, max_batch, element_bytes);
}

index_t model_parameters(ModelConfig const& model) {
  index_t total = 0;
  for (TensorSpec const& tensor : model_tensors(model))
    if (!tensor.statistic) total += tensor.size();
  return total;
}

}  // namespace sdp
