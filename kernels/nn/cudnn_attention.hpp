// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(SDP_HAVE_CUDNN)

#include <Kokkos_Core.hpp>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "kernels/core/bf16.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/nn/cudnn_attention_graph.hpp"

// Attention of bf16 tensors by the fused kernels of cuDNN, which multiply on tensor cores and keep
// no (T,T) tensor. Behind attention.hpp. Legend: B batch, T positions, H query heads, K key/value
// heads, h head dimension.
//
// cuDNN compiles a plan for each shape and direction; it is made at the first call with that shape
// and kept until Kokkos::finalize. The workspace belongs to the device, is as large as the largest
// plan needs, and is allocated with the plan: later calls allocate nothing on the device and do not
// wait. Two execution space instances must therefore not run attention at the same time.

namespace sdp::kernels::Details {

/// Whether attention of storage type T may run on cuDNN in this execution space.
template <class Exec, class T>
inline constexpr bool k_cudnn_attention =
    std::is_same_v<Exec, Kokkos::Cuda>&& std::is_same_v<T, bf16>;

/// What the workspace of a plan may take before the batch is given to cuDNN in parts. On Ampere and
/// Hopper the backward pass that gives the same bits twice keeps more than 2 H T^2 bytes for each
/// sequence (cuDNN 9.19): this is enough for 64 heads of 2048 positions, which fill the device.
inline constexpr std::int64_t k_cudnn_workspace_limit = std::int64_t{640} << 20;

/// Device pointers by the number of the tensor in the graph.
using CudnnPack = std::unordered_map<std::int64_t, void*>;

/// One direction of attention for one shape.
struct CudnnPlan {
  std::shared_ptr<CudnnGraph> graph;  ///< none where cuDNN does not take the shape
  std::string refusal;                ///< what it says then
  index_t sequences = 0;              ///< sequences of one execution, a divisor of B
  std::int64_t workspace = 0;         ///< bytes
};

/// What is kept for one device.
struct CudnnDevice {
  cudnnHandle_t handle = nullptr;
  Kokkos::View<unsigned char*, Kokkos::CudaSpace> workspace;
  std::map<std::array<index_t, 6>, CudnnPlan> plans;  ///< by direction, B, T, H, K, h
};

struct CudnnState {
  std::mutex mutex;
  std::map<int, CudnnDevice> devices;
  std::int64_t workspace_limit = k_cudnn_workspace_limit;
  bool hook_is_set = false;
};

inline CudnnState& cudnn_state() {
  static CudnnState* state = new CudnnState;  // outlives Kokkos; its Views are released before
  return *state;
}

/// Gives back every plan, workspace and handle; the next call makes new ones.
inline void release_cudnn() {
  CudnnState& state = cudnn_state();
  const std::lock_guard lock(state.mutex);
  fence(Kokkos::Cuda(), "sdp::kernels::release_cudnn");
  for (auto& [number, device] : state.devices) {
    device.plans.clear();
    if (device.handle != nullptr) cudnnDestroy(device.handle);
  }
  state.devices.clear();
}

[[noreturn]] inline void cudnn_failed(char const* kernel, std::string const& message) {
  throw std::runtime_error(std::string(kernel) + ": cuDNN: " + message);
}

inline void cudnn_check(char const* kernel, cudnnStatus_t status) {
  if (status != CUDNN_STATUS_SUCCESS) cudnn_failed(kernel, cudnnGetErrorString(status));
}

/// The handle of the device of exec, set to its stream.
inline CudnnDevice& cudnn_device(char const* kernel, CudnnState& state, Kokkos::Cuda const& exec) {
  if (!state.hook_is_set) {
    Kokkos::push_finalize_hook([] {
      release_cudnn();
      cudnn_state().hook_is_set = false;
    });
    state.hook_is_set = true;
  }
  if (cudaSetDevice(exec.cuda_device()) != cudaSuccess)
    cudnn_failed(kernel, "no device " + std::to_string(exec.cuda_device()));
  CudnnDevice& device = state.devices[exec.cuda_device()];
  if (device.handle == nullptr) cudnn_check(kernel, cudnnCreate(&device.handle));
  cudnn_check(kernel, cudnnSetStream(device.handle, exec.cuda_stream()));
  return device;
}

/// The plan that gives cuDNN `sequences` sequences at a time, or why there is none.
inline CudnnPlan make_cudnn_plan(cudnnHandle_t handle, CudnnPass pass, AttentionShape const& shape,
                                 index_t sequences) {
  CudnnPlan plan;
  const auto graph = cudnn_attention_graph(pass, shape, sequences);
  if (auto built = graph->build(handle, {cudnn_frontend::HeurMode_t::A}); built.is_bad()) {
    plan.refusal = built.get_message();
    return plan;
  }
  if (auto asked = graph->get_workspace_size(plan.workspace); asked.is_bad()) {
    plan.refusal = asked.get_message();
    return plan;
  }
  plan.graph = graph;
  plan.sequences = sequences;
  return plan;
}

/// The most sequences at a time whose workspace keeps the limit, given that of all B: a divisor of
/// B for which every part of lse starts on 16 bytes. The fewest possible where none keeps it.
inline index_t cudnn_sequences(AttentionShape const& shape, std::int64_t workspace,
                               std::int64_t limit) {
  index_t sequences = shape.batch;
  for (index_t n = shape.batch; n >= 1; --n) {
    if (shape.batch % n != 0 || n * shape.heads * shape.positions % 4 != 0) continue;
    sequences = n;
    if (workspace / shape.batch * n <= limit) break;
  }
  return sequences;
}

/// The plan of a direction and shape, made when it is first asked for.
inline CudnnPlan const& cudnn_plan(CudnnDevice& device, CudnnPass pass, AttentionShape const& shape,
                                   std::int64_t workspace_limit) {
  const std::array<index_t, 6> key = {
      static_cast<index_t>(pass), shape.batch,   shape.positions, shape.heads,
      shape.key_value_heads,      shape.head_dim};
  if (const auto found = device.plans.find(key); found != device.plans.end()) return found->second;
  CudnnPlan plan = make_cudnn_plan(device.handle, pass, shape, shape.batch);
  if (plan.graph && plan.workspace > workspace_limit) {
    const index_t sequences = cudnn_sequences(shape, plan.workspace, workspace_limit);
    if (sequences < shape.batch) plan = make_cudnn_plan(device.handle, pass, shape, sequences);
  }
  return device.plans.emplace(key, std::move(plan)).first->second;
}

/// Makes the workspace at least as large as asked for.
inline void grow_cudnn_workspace(CudnnDevice& device, Kokkos::Cuda const& exec,
                                 std::int64_t bytes) {
  if (bytes <= static_cast<std::int64_t>(device.workspace.size())) return;
  // What is queued may still be using the smaller one.
  fence(exec, "sdp::kernels::attention_workspace");
  device.workspace = {};
  device.workspace = Kokkos::View<unsigned char*, Kokkos::CudaSpace>(
      Kokkos::view_alloc(exec, "sdp::kernels::attention_workspace", Kokkos::WithoutInitializing),
      static_cast<std::size_t>(bytes));
}

/// Runs a plan part by part of the batch; pointers(b) gives the pack of the part from sequence b
/// on. False, and nothing is queued, where cuDNN does not take the shape.
template <class Pointers>
bool run_cudnn(char const* kernel, Kokkos::Cuda const& exec, CudnnPass pass,
               AttentionShape const& shape, Pointers const& pointers) {
  CudnnState& state = cudnn_state();
  const std::lock_guard lock(state.mutex);
  CudnnDevice& device = cudnn_device(kernel, state, exec);
  CudnnPlan const& plan = cudnn_plan(device, pass, shape, state.workspace_limit);
  if (!plan.graph) return false;
  grow_cudnn_workspace(device, exec, plan.workspace);
  Kokkos::Profiling::pushRegion(kernel);
  for (index_t b = 0; b < shape.batch; b += plan.sequences) {
    CudnnPack pack = pointers(b);
    if (auto status = plan.graph->execute(device.handle, pack, device.workspace.data());
        status.is_bad()) {
      Kokkos::Profiling::popRegion();
      cudnn_failed(kernel, status.get_message());
    }
  }
  Kokkos::Profiling::popRegion();
  return true;
}

/// What cuDNN requires of head dimension and pointers before it is asked for a plan.
inline bool cudnn_fits(AttentionShape const& shape, std::initializer_list<void const*> pointers) {
  for (void const* pointer : pointers)
    if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0) return false;
  return shape.head_dim % 8 == 0;
}

template <class T>
void* cudnn_pointer(T const* data, index_t offset) {
  return const_cast<T*>(data + offset);
}

/// attention_forward on cuDNN, asynchronous on exec except when the plan is made. False, and
/// nothing is queued, where cuDNN does not take the shape. Throws std::runtime_error with cuDNN's
/// message when it fails. Two calls give the same bits.
inline bool cudnn_attention_forward(Kokkos::Cuda const& exec, AttentionShape const& shape,
                                    bf16 const* qkv, bf16* out, float* lse) {
  if (!cudnn_fits(shape, {qkv, out, lse})) return false;
  return run_cudnn("sdp::kernels::attention_forward", exec, CudnnPass::forward, shape,
                   [&](index_t b) -> CudnnPack {
                     const int stored = shape.stored_heads(), heads = shape.heads;
                     const int values = heads + shape.key_value_heads;
                     return {{cudnn_id::k_q, cudnn_pointer(qkv, shape.row(b, 0, 0, stored))},
                             {cudnn_id::k_k, cudnn_pointer(qkv, shape.row(b, 0, heads, stored))},
                             {cudnn_id::k_v, cudnn_pointer(qkv, shape.row(b, 0, values, stored))},
                             {cudnn_id::k_out, out + shape.row(b, 0, 0, heads)},
                             {cudnn_id::k_lse, lse + shape.statistic(b, 0, 0)}};
                   });
}

/// attention_backward on cuDNN, as cudnn_attention_forward.
inline bool cudnn_attention_backward(Kokkos::Cuda const& exec, AttentionShape const& shape,
                                     bf16 const* qkv, bf16 const* out, float const* lse,
                                     bf16 const* d_out, bf16* d_qkv) {
  if (!cudnn_fits(shape, {qkv, out, lse, d_out, d_qkv})) return false;
  return run_cudnn("sdp::kernels::attention_backward", exec, CudnnPass::backward, shape,
                   [&](index_t b) -> CudnnPack {
                     const int stored = shape.stored_heads(), heads = shape.heads;
                     const index_t queries = shape.row(b, 0, 0, stored);
                     const index_t keys = shape.row(b, 0, heads, stored);
                     const index_t values = shape.row(b, 0, heads + shape.key_value_heads, stored);
                     const index_t outputs = shape.row(b, 0, 0, heads);
                     return {{cudnn_id::k_q, cudnn_pointer(qkv, queries)},
                             {cudnn_id::k_k, cudnn_pointer(qkv, keys)},
                             {cudnn_id::k_v, cudnn_pointer(qkv, values)},
                             {cudnn_id::k_out, cudnn_pointer(out, outputs)},
                             {cudnn_id::k_lse, cudnn_pointer(lse, shape.statistic(b, 0, 0))},
                             {cudnn_id::k_d_out, cudnn_pointer(d_out, outputs)},
                             {cudnn_id::k_d_q, d_qkv + queries},
                             {cudnn_id::k_d_k, d_qkv + keys},
                             {cudnn_id::k_d_v, d_qkv + values}};
                   });
}

}  // namespace sdp::kernels::Details

#endif
