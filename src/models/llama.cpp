// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include <algorithm>
#include <stdexcept>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/nn/attention.hpp"
#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/embedding.hpp"
#include "kernels/nn/linear.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "kernels/nn/rotary.hpp"
#include "kernels/nn/swiglu.hpp"

namespace sdp {

namespace {

using kernels::WeightLayout;

/// Elements of one chunk of logits: large enough for an efficient GEMM, small enough that fp32
/// logits never dominate memory.
constexpr index_t k_logits_elements = index_t{1} << 21;
constexpr index_t k_min_head_rows = 256;

template <class T>
using Window4 =
    Kokkos::View<T****, Kokkos::LayoutRight, MemSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
template <class T>
using Window3 =
    Kokkos::View<T***, Kokkos::LayoutRight, MemSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

template <class T>
View1<T> allocate(std::string const& label, index_t size) {
  return View1<T>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::models::" + label), size);
}

template <class T>
Window1<T> first(View1<T> const& buffer, index_t size) {
  return Window1<T>(buffer.data(), size);
}

template <class View>
auto as_vector(View const& tokens) {
  return Kokkos::View<typename View::value_type const*, Kokkos::LayoutRight, MemSpace,
                      Kokkos::MemoryTraits<Kokkos::Unmanaged>>(tokens.data(), tokens.size());
}

}  // namespace

template <class V>
Llama<V>::Llama(LlamaConfig const& config, ParameterTable const& table, index_t max_batch,
                index_t max_seq_len, Recompute recompute, bool with_backward)
    : m_config(config),
      m_table(table),
      m_where(llama_tensor_indices(config)),
      m_recompute(recompute),
      m_max_batch(max_batch),
      m_max_seq_len(max_seq_len),
      m_with_backward(with_backward) {
  const index_t n = max_batch * max_seq_len;
  const index_t d = config.hidden_size;
  const index_t h = config.head_dim;
  MemoryScope scope(MemoryCategory::activations);

  index_t max_heads = 0, max_kv = 0, max_width = 0;
  m_layers.resize(config.num_layers);
  for (index_t l = 0; l < config.num_layers; ++l) {
    LlamaLayerTensors const& t = m_where.layers[l];
    Layer& layer = m_layers[l];
    layer.heads = table.held_rows(t.query) / h;
    layer.kv_heads = table.held_rows(t.key) / h;
    layer.width = table.held_rows(t.gate);
    max_heads = std::max(max_heads, layer.heads);
    max_kv = std::max(max_kv, layer.kv_heads);
    max_width = std::max(max_width, layer.width);
  }

  m_cos = View2<Accum>("sdp::models::cos", max_seq_len, h / 2);
  m_sin = View2<Accum>("sdp::models::sin", max_seq_len, h / 2);
  kernels::rotary_tables(ExecSpace(), config.rope_theta, m_cos, m_sin);
  m_embedded = allocate<V>("embedded", n * d);
  m_final_rstd = allocate<Accum>("final_rstd", n);
  m_final_out = allocate<V>("final_out", n * d);
  m_normed = allocate<V>("normed", n * d);
  m_branch = allocate<V>("branch", n * d);
  m_act = allocate<V>("act", n * max_width);
  m_logits = allocate<V>("logits", std::min(n, head_chunk()) * config.vocab_size);

  // One set of buffers for all layers where nothing outlives a layer.
  const bool shared = !with_backward || recompute == Recompute::block;
  Layer common;
  auto make_set = [&](Layer& set, index_t heads, index_t kv, index_t width) {
    if (heads > 0) {
      set.attention_rstd = allocate<Accum>("attention_rstd", n);
      set.qkv = allocate<V>("qkv", n * (heads + 2 * kv) * h);
      set.attention_out = allocate<V>("attention_out", n * heads * h);
      set.lse = allocate<Accum>("lse", n * heads);
    }
    if (width > 0) {
      set.mlp_rstd = allocate<Accum>("mlp_rstd", n);
      set.gate_up = allocate<V>("gate_up", n * 2 * width);
    }
  };
  if (shared) make_set(common, max_heads, max_kv, max_width);
  View1<V> shared_mlp_in;
  if (with_backward && shared) shared_mlp_in = allocate<V>("mlp_in", n * d);

  // The input of a sub-layer is a buffer of its own only if a branch was added since the last one;
  // a forward-only model keeps the stream in one place.
  Stream stream{m_embedded, false};
  auto stored_input = [&](char const* label, View1<V> const& reusable) {
    if (stream.pending_branch && with_backward)
      stream.value = reusable.data() ? reusable : allocate<V>(label, n * d);
    stream.pending_branch = true;
    return stream.value;
  };
  for (Layer& layer : m_layers) {
    if (shared) {
      const Layer sizes = layer;
      layer = common;
      layer.heads = sizes.heads;
      layer.kv_heads = sizes.kv_heads;
      layer.width = sizes.width;
    } else {
      make_set(layer, layer.heads, layer.kv_heads, layer.width);
    }
    if (layer.has_attention()) layer.attention_in = stored_input("attention_in", {});
    if (layer.has_mlp())
      layer.mlp_in = stored_input("mlp_in", layer.has_attention() ? shared_mlp_in : View1<V>());
  }
  m_final_in = stored_input("final_in", {});

  if (with_backward) {
    m_d_stream = allocate<V>("d_stream", n * d);
    m_d_attention = allocate<V>("d_attention", n * max_heads * h);
    m_d_qkv = allocate<V>("d_qkv", n * (max_heads + 2 * max_kv) * h);
    m_delta = allocate<Accum>("delta", n * max_heads);
    m_norm_partials =
        View2<Accum>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::models::norm_partials"),
                     kernels::rms_norm_backward_chunks(n), d);
    m_embedding_work = allocate<std::int32_t>("embedding_work",
                                              kernels::embedding_backward_workspace<ExecSpace>(n));
  }
}

template <class V>
index_t Llama<V>::head_chunk() const {
  const index_t rows = std::max(k_min_head_rows, k_logits_elements / m_config.vocab_size);
  return std::min(rows, m_max_batch * m_max_seq_len);
}

template <class V>
Window2<V> Llama<V>::adjacent(View1<V> const& flat, int first_tensor, index_t rows) const {
  return Window2<V>(flat.data() + m_table.offset(first_tensor), rows, m_config.hidden_size);
}

template <class V>
void Llama<V>::norm_into(ExecSpace const& exec, View1<V> const& weights, int norm_tensor,
                         Stream& stream, View1<V> const& stored, View1<Accum> const& rstd) {
  const index_t d = m_config.hidden_size;
  const auto scale = m_table.vector(weights, norm_tensor);
  const auto eps = static_cast<Accum>(m_config.rms_norm_eps);
  if (stream.pending_branch)
    kernels::add_rms_norm_forward(exec, window(stream.value, d), window(m_branch, d), scale, eps,
                                  window(stored, d), window(m_normed, d), first(rstd, m_tokens));
  else
    kernels::rms_norm_forward(exec, window(stream.value, d), scale, eps, window(m_normed, d),
                              first(rstd, m_tokens));
  stream.value = stored;
  stream.pending_branch = false;
}

template <class V>
void Llama<V>::attention_forward(ExecSpace const& exec, View1<V> const& weights, int index,
                                 Stream& stream) {
  Layer const& layer = m_layers[index];
  LlamaLayerTensors const& t = m_where.layers[index];
  const index_t d = m_config.hidden_size;
  const index_t h = m_config.head_dim;
  const index_t slots = layer.heads + 2 * layer.kv_heads;
  norm_into(exec, weights, t.attention_norm, stream, layer.attention_in, layer.attention_rstd);
  kernels::linear_forward(exec, WeightLayout::out_in, window(m_normed, d),
                          adjacent(weights, t.query, slots * h), window(layer.qkv, slots * h));
  const Window4<V> qkv(layer.qkv.data(), m_batch, m_seq_len, slots, h);
  const Window2<Accum> cos(m_cos.data(), m_seq_len, h / 2), sin(m_sin.data(), m_seq_len, h / 2);
  kernels::rotary_forward(exec, cos, sin, qkv, layer.heads + layer.kv_heads);
  kernels::attention_forward(
      exec, qkv, layer.heads,
      Window4<V>(layer.attention_out.data(), m_batch, m_seq_len, layer.heads, h),
      Window3<Accum>(layer.lse.data(), m_batch, layer.heads, m_seq_len));
  kernels::linear_forward(exec, WeightLayout::in_out, window(layer.attention_out, layer.heads * h),
                          m_table.matrix(weights, t.output), window(m_branch, d));
  stream.pending_branch = true;
}

template <class V>
void Llama<V>::mlp_forward(ExecSpace const& exec, View1<V> const& weights, int index,
                           Stream& stream, bool with_down) {
  Layer const& layer = m_layers[index];
  LlamaLayerTensors const& t = m_where.layers[index];
  const index_t d = m_config.hidden_size;
  norm_into(exec, weights, t.mlp_norm, stream, layer.mlp_in, layer.mlp_rstd);
  kernels::linear_forward(exec, WeightLayout::out_in, window(m_normed, d),
                          adjacent(weights, t.gate, 2 * layer.width),
                          window(layer.gate_up, 2 * layer.width));
  if (!with_down) return;
  kernels::swiglu_forward(exec, window(layer.gate_up, 2 * layer.width), window(m_act, layer.width));
  kernels::linear_forward(exec, WeightLayout::in_out, window(m_act, layer.width),
                          m_table.matrix(weights, t.down), window(m_branch, d));
  stream.pending_branch = true;
}

template <class V>
void Llama<V>::forward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens) {
  Region region("sdp::models::llama_forward");
  m_batch = static_cast<index_t>(tokens.extent(0));
  m_seq_len = static_cast<index_t>(tokens.extent(1));
  m_tokens = m_batch * m_seq_len;
  if (m_tokens > m_max_batch * m_max_seq_len || m_seq_len > m_max_seq_len)
    throw std::invalid_argument("Llama::forward: tokens " + kernels::shape_string(tokens) +
                                " exceed the buffers (" + std::to_string(m_max_batch) + "," +
                                std::to_string(m_max_seq_len) + ")");
  kernels::embedding_forward(exec, as_vector(tokens), m_table.matrix(weights, m_where.embedding),
                             window(m_embedded, m_config.hidden_size));
  Stream stream{m_embedded, false};
  for (int l = 0; l < static_cast<int>(m_layers.size()); ++l) {
    if (m_layers[l].has_attention()) attention_forward(exec, weights, l, stream);
    if (m_layers[l].has_mlp()) mlp_forward(exec, weights, l, stream, true);
  }
  norm_into(exec, weights, m_where.final_norm, stream, m_final_in, m_final_rstd);
  std::swap(m_normed, m_final_out);  // kept for the head; same size
}

template <class V>
void Llama<V>::logits(ExecSpace const& exec, View1<V> const& weights, index_t begin,
                      View2<V> const& out) {
  const index_t d = m_config.hidden_size;
  const auto rows = static_cast<index_t>(out.extent(0));
  if (begin < 0 || begin + rows > m_tokens)
    throw std::invalid_argument("Llama::logits: rows outside the last forward");
  kernels::linear_forward(exec, WeightLayout::out_in,
                          Window2<V>(m_final_out.data() + begin * d, rows, d),
                          m_table.matrix(weights, m_where.head), out);
}

template <class V>
void Llama<V>::loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                    View1<Accum> const& losses) {
  Region region("sdp::models::llama_loss");
  const index_t d = m_config.hidden_size;
  const auto head = m_table.matrix(weights, m_where.head);
  for (index_t begin = 0; begin < m_tokens; begin += head_chunk()) {
    const index_t rows = std::min(head_chunk(), m_tokens - begin);
    const Window2<V> hidden(m_final_out.data() + begin * d, rows, d);
    const Window2<V> logits(m_logits.data(), rows, m_config.vocab_size);
    kernels::linear_forward(exec, WeightLayout::out_in, hidden, head, logits);
    kernels::cross_entropy_forward(exec, logits,
                                   Window1<std::int32_t const>(targets.data() + begin, rows),
                                   Window1<Accum>(losses.data() + begin, rows));
  }
}

template <class V>
void Llama<V>::loss_backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                             double grad_scale, bool accumulate, View1<V> const& grads,
                             View1<Accum> const& losses, double label_smoothing) {
  Region region("sdp::models::llama_loss_backward");
  const index_t d = m_config.hidden_size;
  const auto head = m_table.matrix(weights, m_where.head);
  const auto d_head = m_table.matrix(grads, m_where.head);
  for (index_t begin = 0; begin < m_tokens; begin += head_chunk()) {
    const index_t rows = std::min(head_chunk(), m_tokens - begin);
    const Window2<V> hidden(m_final_out.data() + begin * d, rows, d);
    const Window2<V> logits(m_logits.data(), rows, m_config.vocab_size);
    const Window2<V> d_hidden(m_branch.data() + begin * d, rows, d);
    kernels::linear_forward(exec, WeightLayout::out_in, hidden, head, logits);
    kernels::cross_entropy_forward_backward(
        exec, logits, Window1<std::int32_t const>(targets.data() + begin, rows),
        static_cast<Accum>(grad_scale), Window1<Accum>(losses.data() + begin, rows),
        label_smoothing);
    kernels::linear_backward_input(exec, WeightLayout::out_in, logits, head, d_hidden);
    kernels::linear_backward_weight(exec, WeightLayout::out_in, hidden, logits, d_head,
                                    accumulate || begin > 0 ? 1.0 : 0.0);
  }
}

template <class V>
void Llama<V>::norm_backward(ExecSpace const& exec, View1<V> const& weights, int norm_tensor,
                             View1<V> const& x, View1<Accum> const& rstd, View1<V> const& grads) {
  const index_t d = m_config.hidden_size;
  const Window2<Accum> partials(m_norm_partials.data(), kernels::rms_norm_backward_chunks(m_tokens),
                                d);
  kernels::rms_norm_backward(exec, window(m_branch, d), window(x, d), first(rstd, m_tokens),
                             m_table.vector(weights, norm_tensor), partials, window(m_d_stream, d),
                             m_table.vector(grads, norm_tensor));
}

template <class V>
void Llama<V>::recompute_layer(ExecSpace const& exec, View1<V> const& weights, int index) {
  Layer const& layer = m_layers[index];
  Stream stream{layer.has_attention() ? layer.attention_in : layer.mlp_in, false};
  if (layer.has_attention()) attention_forward(exec, weights, index, stream);
  if (layer.has_mlp()) mlp_forward(exec, weights, index, stream, false);
}

template <class V>
void Llama<V>::mlp_backward(ExecSpace const& exec, View1<V> const& weights, int index, double beta,
                            View1<V> const& grads, BackwardObserver* observer) {
  Layer const& layer = m_layers[index];
  LlamaLayerTensors const& t = m_where.layers[index];
  const index_t d = m_config.hidden_size;
  const auto d_out = window(m_d_stream, d);
  const auto d_act = window(m_act, layer.width);
  const auto gate_up = window(layer.gate_up, 2 * layer.width);
  auto progress = [&] {
    if (observer) observer->progress();
  };
  kernels::linear_backward_input(exec, WeightLayout::in_out, d_out, m_table.matrix(weights, t.down),
                                 d_act);
  progress();
  kernels::swiglu_backward(exec, gate_up, d_act);
  kernels::linear_backward_weight(exec, WeightLayout::in_out, d_act, d_out,
                                  m_table.matrix(grads, t.down), beta);
  progress();
  kernels::linear_backward_input(exec, WeightLayout::out_in, gate_up,
                                 adjacent(weights, t.gate, 2 * layer.width), window(m_branch, d));
  progress();
  kernels::rms_norm_apply(exec, window(layer.mlp_in, d), first(layer.mlp_rstd, m_tokens),
                          m_table.vector(weights, t.mlp_norm), window(m_normed, d));
  kernels::linear_backward_weight(exec, WeightLayout::out_in, window(m_normed, d), gate_up,
                                  adjacent(grads, t.gate, 2 * layer.width), beta);
  progress();
  norm_backward(exec, weights, t.mlp_norm, layer.mlp_in, layer.mlp_rstd, grads);
  if (observer) observer->gradients_ready(m_table.offset(t.output));
}

template <class V>
void Llama<V>::attention_backward(ExecSpace const& exec, View1<V> const& weights, int index,
                                  double beta, View1<V> const& grads, BackwardObserver* observer) {
  Layer const& layer = m_layers[index];
  LlamaLayerTensors const& t = m_where.layers[index];
  const index_t d = m_config.hidden_size;
  const index_t h = m_config.head_dim;
  const index_t slots = layer.heads + 2 * layer.kv_heads;
  const auto d_out = window(m_d_stream, d);
  const auto d_attention = window(m_d_attention, layer.heads * h);
  const auto d_qkv = window(m_d_qkv, slots * h);
  auto progress = [&] {
    if (observer) observer->progress();
  };
  kernels::linear_backward_input(exec, WeightLayout::in_out, d_out,
                                 m_table.matrix(weights, t.output), d_attention);
  kernels::linear_backward_weight(exec, WeightLayout::in_out,
                                  window(layer.attention_out, layer.heads * h), d_out,
                                  m_table.matrix(grads, t.output), beta);
  progress();
  const Window4<V> qkv(layer.qkv.data(), m_batch, m_seq_len, slots, h);
  const Window4<V> out(layer.attention_out.data(), m_batch, m_seq_len, layer.heads, h);
  const Window4<V> d_out_heads(m_d_attention.data(), m_batch, m_seq_len, layer.heads, h);
  const Window4<V> d_qkv_heads(m_d_qkv.data(), m_batch, m_seq_len, slots, h);
  const Window3<Accum> lse(layer.lse.data(), m_batch, layer.heads, m_seq_len);
  const Window3<Accum> delta(m_delta.data(), m_batch, layer.heads, m_seq_len);
  kernels::attention_backward(exec, qkv, out, lse, d_out_heads, layer.heads, delta, d_qkv_heads);
  const Window2<Accum> cos(m_cos.data(), m_seq_len, h / 2), sin(m_sin.data(), m_seq_len, h / 2);
  kernels::rotary_backward(exec, cos, sin, d_qkv_heads, layer.heads + layer.kv_heads);
  progress();
  kernels::linear_backward_input(exec, WeightLayout::out_in, d_qkv,
                                 adjacent(weights, t.query, slots * h), window(m_branch, d));
  progress();
  kernels::rms_norm_apply(exec, window(layer.attention_in, d),
                          first(layer.attention_rstd, m_tokens),
                          m_table.vector(weights, t.attention_norm), window(m_normed, d));
  kernels::linear_backward_weight(exec, WeightLayout::out_in, window(m_normed, d), d_qkv,
                                  adjacent(grads, t.query, slots * h), beta);
  progress();
  norm_backward(exec, weights, t.attention_norm, layer.attention_in, layer.attention_rstd, grads);
  if (observer)
    observer->gradients_ready(m_table.offset(t.attention_norm) +
                              m_table.held_size(t.attention_norm));
}

template <class V>
void Llama<V>::backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                        bool accumulate, View1<V> const& grads, BackwardObserver* observer) {
  Region region("sdp::models::llama_backward");
  if (!m_with_backward)
    throw std::logic_error("Llama::backward: the model was built for forward passes only");
  const double beta = accumulate ? 1.0 : 0.0;
  if (!accumulate) {
    // GEMMs overwrite with beta = 0; the rest accumulates and starts at zero. A tied embedding has
    // the head's gradient already.
    auto zero = [&](int tensor) { Kokkos::deep_copy(exec, m_table.vector(grads, tensor), V(0)); };
    if (m_where.head != m_where.embedding) zero(m_where.embedding);
    zero(m_where.final_norm);
    for (LlamaLayerTensors const& t : m_where.layers) {
      zero(t.attention_norm);
      zero(t.mlp_norm);
    }
  }
  Kokkos::deep_copy(exec, first(m_d_stream, m_tokens * m_config.hidden_size), V(0));
  norm_backward(exec, weights, m_where.final_norm, m_final_in, m_final_rstd, grads);
  if (observer)
    observer->gradients_ready(m_table.offset(m_where.final_norm) +
                              m_table.held_size(m_where.final_norm));
  for (int l = static_cast<int>(m_layers.size()) - 1; l >= 0; --l) {
    if (m_recompute == Recompute::block) recompute_layer(exec, weights, l);
    if (m_layers[l].has_mlp()) mlp_backward(exec, weights, l, beta, grads, observer);
    if (m_layers[l].has_attention()) attention_backward(exec, weights, l, beta, grads, observer);
  }
  kernels::embedding_backward(exec, as_vector(tokens), window(m_d_stream, m_config.hidden_size),
                              m_embedding_work, m_table.matrix(grads, m_where.embedding));
  if (observer) observer->gradients_ready(m_table.size());
}

template class Llama<float>;
template class Llama<double>;

}  // namespace sdp
