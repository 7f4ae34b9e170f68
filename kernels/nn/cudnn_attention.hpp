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
/// sequence (cuDNN 9.19): this is enough for 64 heads of 2048 positions, which fill the device. The
/// one that may sum in any order keeps 4 H T (h + 1) bytes.
inline constexpr std::int64_t k_cudnn_workspace_limit = std::int64_t{640} << 20;

/// Device pointers by the number of the tensor in the graph.
using CudnnPack = std::unordered_map<std::int64_t, void*>;

/// One direction of attention for one shape.
struct CudnnPlan {
  std::shared_ptr<CudnnGraph> graph;  ///< none where cuDNN does not take the shape
  std::string refusal;                ///< what it says then
  AttentionPart part;                 ///< of one execution
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

/// The plan that gives cuDNN one such part at a time, or why there is none.
inline CudnnPlan make_cudnn_plan(cudnnHandle_t handle, CudnnPass pass, AttentionShape const& shape,
                                 AttentionPart const& part) {
  CudnnPlan plan;
  const auto graph = cudnn_attention_graph(pass, shape, part);
  if (auto built = graph->build(handle, {cudnn_frontend::HeurMode_t::A}); built.is_bad()) {
    plan.refusal = built.get_message();
    return plan;
  }
  if (auto asked = graph->get_workspace_size(plan.workspace); asked.is_bad()) {
    plan.refusal = asked.get_message();
    return plan;
  }
  plan.graph = graph;
  plan.part = part;
  return plan;
}

/// The plan of a direction and shape, made when it is first asked for.
inline CudnnPlan const& cudnn_plan(CudnnDevice& device, CudnnPass pass, AttentionShape const& shape,
                                   std::int64_t workspace_limit) {
  const std::array<index_t, 6> key = {
      static_cast<index_t>(pass), shape.batch,   shape.positions, shape.heads,
      shape.key_value_heads,      shape.head_dim};
  if (const auto found = device.plans.find(key); found != device.plans.end()) return found->second;
  const AttentionPart whole = whole_batch(shape);
  CudnnPlan plan = make_cudnn_plan(device.handle, pass, shape, whole);
  if (plan.graph && plan.workspace > workspace_limit) {
    const AttentionPart part = attention_part(shape, plan.workspace, workspace_limit);
    if (part != whole) plan = make_cudnn_plan(device.handle, pass, shape, part);
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

/// Runs a plan part by part of the batch; pointers(b, k) gives the pack of the part from sequence b
/// and key/value head k on. False, and nothing is queued, where cuDNN does not take the shape.
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
  for (index_t b = 0; b < shape.batch; b += plan.part.sequences)
    for (int k = 0; k < shape.key_value_heads; k += static_cast<int>(plan.part.groups)) {
      CudnnPack pack = pointers(b, k);
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

/// The rows of queries, keys, values and outputs, and the statistics, that a part starts with.
struct CudnnOffsets {
  CudnnOffsets(AttentionShape const& shape, index_t b, int key_value_head) {
    const int stored = shape.stored_heads(), keys_from = shape.heads;
    const int head = key_value_head * shape.heads_of_group();
    queries = shape.row(b, 0, head, stored);
    keys = shape.row(b, 0, keys_from + key_value_head, stored);
    values = shape.row(b, 0, keys_from + shape.key_value_heads + key_value_head, stored);
    outputs = shape.row(b, 0, head, shape.heads);
    statistics = shape.statistic(b, head, 0);
  }

  index_t queries, keys, values, outputs, statistics;
};

/// attention_forward on cuDNN, asynchronous on exec except when the plan is made. False, and
/// nothing is queued, where cuDNN does not take the shape. Throws std::runtime_error with cuDNN's
/// message when it fails. Two calls give the same bits.
inline bool cudnn_attention_forward(Kokkos::Cuda const& exec, AttentionShape const& shape,
                                    bf16 const* qkv, bf16* out, float* lse) {
  if (!cudnn_fits(shape, {qkv, out, lse})) return false;
  return run_cudnn("sdp::kernels::attention_forward", exec, CudnnPass::forward, shape,
                   [&](index_t b, int key_value_head) -> CudnnPack {
                     const CudnnOffsets at(shape, b, key_value_head);
                     return {{cudnn_id::k_q, cudnn_pointer(qkv, at.queries)},
                             {cudnn_id::k_k, cudnn_pointer(qkv, at.keys)},
                             {cudnn_id::k_v, cudnn_pointer(qkv, at.values)},
                             {cudnn_id::k_out, out + at.outputs},
                             {cudnn_id::k_lse, lse + at.statistics}};
                   });
}

/// attention_backward on cuDNN, as cudnn_attention_forward; when not `deterministic`, the order of
/// the sums of query gradients is left to the device.
inline bool cudnn_attention_backward(Kokkos::Cuda const& exec, AttentionShape const& shape,
                                     bf16 const* qkv, bf16 const* out, float const* lse,
                                     bf16 const* d_out, bf16* d_qkv, bool deterministic) {
  if (!cudnn_fits(shape, {qkv, out, lse, d_out, d_qkv})) return false;
  const CudnnPass pass = deterministic ? CudnnPass::backward_deterministic : CudnnPass::backward;
  return run_cudnn("sdp::kernels::attention_backward", exec, pass, shape,
                   [&](index_t b, int key_value_head) -> CudnnPack {
                     const CudnnOffsets at(shape, b, key_value_head);
                     return {{cudnn_id::k_q, cudnn_pointer(qkv, at.queries)},
                             {cudnn_id::k_k, cudnn_pointer(qkv, at.keys)},
                             {cudnn_id::k_v, cudnn_pointer(qkv, at.values)},
                             {cudnn_id::k_out, cudnn_pointer(out, at.outputs)},
                             {cudnn_id::k_lse, cudnn_pointer(lse, at.statistics)},
                             {cudnn_id::k_d_out, cudnn_pointer(d_out, at.outputs)},
                             {cudnn_id::k_d_q, d_qkv + at.queries},
                             {cudnn_id::k_d_k, d_qkv + at.keys},
                             {cudnn_id::k_d_v, d_qkv + at.values}};
                   });
}

}  // namespace sdp::kernels::Details

#endif
