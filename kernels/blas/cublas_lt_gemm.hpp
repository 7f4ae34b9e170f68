// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/blas/blas_gemm.hpp"

// Products by cuBLASLt where Kokkos has CUDA: bf16 on tensor cores with sums in float, float and
// double with sums in their own type (no TF32). Elsewhere k_has_cublas_lt is false and nothing else
// is defined.
//
// The same shape gives the same bits in every call. The algorithm is chosen once for a shape; it
// depends on leading dimensions and on the alignment of the matrices up to k_lt_alignment, and on
// nothing else that a run could change. Where the terms of a sum are split among blocks the partial
// sums lie in the workspace, in the type of the sums, and one kernel adds them: the schemes that
// add in C, one block after the other, or that round partial sums to the type of C are shut out.

namespace sdp::kernels::Details {

/// Whether cublas_lt_gemm takes an execution space.
template <class Exec>
inline constexpr bool k_has_cublas_lt = false;

/// C = alpha * op(A) * op(B) + beta * C with extents that fit and K > 0, queued on the stream of
/// the instance; alpha and beta in the type of the sums. False, with nothing queued, where cuBLASLt
/// has no algorithm for the shape. Throws std::runtime_error with its status and the shape where a
/// call of it fails. The first call for a shape chooses the algorithm, the first on a stream
/// allocates a workspace; both stay until Kokkos is finalized.
template <class Exec, class A, class B, class C, class Accum>
bool cublas_lt_gemm(Exec const& exec, Transpose transpose_a, Transpose transpose_b, Accum alpha,
                    A const& a, B const& b, Accum beta, C const& c);

}  // namespace sdp::kernels::Details

#if defined(KOKKOS_ENABLE_CUDA)

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

namespace sdp::kernels::Details {

template <>
inline constexpr bool k_has_cublas_lt<Kokkos::Cuda> = true;

/// What NVIDIA recommends for Hopper; older devices ask for less.
inline constexpr std::size_t k_lt_workspace_bytes = std::size_t{32} << 20;
inline constexpr std::size_t k_lt_workspace_alignment = 256;
/// The widest load of a kernel in bytes: what lies on more than this multiple is not faster.
inline constexpr std::uintptr_t k_lt_alignment = 16;

template <class T>
inline constexpr cudaDataType_t k_lt_type = std::is_same_v<T, bf16>    ? CUDA_R_16BF
                                            : std::is_same_v<T, float> ? CUDA_R_32F
                                                                       : CUDA_R_64F;

/// A row-major matrix as cuBLASLt reads it: the column-major matrix that is its transpose.
struct LtMatrix {
  void const* data;
  index_t rows, cols, stride;
  cudaDataType_t type;

  /// The largest power of two, up to k_lt_alignment, that the address is a multiple of.
  std::uint32_t alignment() const {
    std::uintptr_t bytes = k_lt_alignment;
    while (reinterpret_cast<std::uintptr_t>(data) % bytes != 0) bytes /= 2;
    return static_cast<std::uint32_t>(bytes);
  }
};

template <RowMajor<2> V>
LtMatrix lt_matrix(V const& view) {
  const auto rows = static_cast<index_t>(view.extent(1));
  const auto stride = static_cast<index_t>(view.stride(0));
  return {view.data(), rows, static_cast<index_t>(view.extent(0)), std::max(stride, rows),
          k_lt_type<value_t<V>>};
}

/// C^T = op(B)^T * op(A)^T: what C = op(A) * op(B) is in column-major terms.
struct LtProduct {
  Transpose transpose_a, transpose_b;
  LtMatrix a, b, c;

  std::string text() const {
    const auto shape = [](LtMatrix const& matrix) {
      return "(" + std::to_string(matrix.cols) + "," + std::to_string(matrix.rows) + ")";
    };
    const auto factor = [&](LtMatrix const& matrix, Transpose transpose) {
      return shape(matrix) + (transpose == Transpose::yes ? "^T" : "");
    };
    return shape(c) + " = " + factor(a, transpose_a) + " * " + factor(b, transpose_b);
  }
};

inline void lt_require(cublasStatus_t status, char const* call, LtProduct const& product) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error("sdp::kernels::gemm: " + std::string(call) + " of " + product.text() +
                           " returned " + cublasLtGetStatusName(status));
}

/// What cuBLASLt is told about products of one shape, and the algorithm that it chose for them.
class LtPlan {
 public:
  LtPlan(cublasLtHandle_t handle, LtProduct const& product) {
    const bool wide = product.c.type == CUDA_R_64F;
    lt_require(cublasLtMatmulDescInit(&m_operation, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                      wide ? CUDA_R_64F : CUDA_R_32F),
               "cublasLtMatmulDescInit", product);
    const auto transpose = [&](cublasLtMatmulDescAttributes_t which, Transpose value) {
      const cublasOperation_t operation = value == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
      lt_require(cublasLtMatmulDescSetAttribute(&m_operation, which, &operation, sizeof(operation)),
                 "cublasLtMatmulDescSetAttribute", product);
    };
    transpose(CUBLASLT_MATMUL_DESC_TRANSA, product.transpose_b);
    transpose(CUBLASLT_MATMUL_DESC_TRANSB, product.transpose_a);
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& of, LtMatrix const& matrix) {
      lt_require(cublasLtMatrixLayoutInit(&of, matrix.type, static_cast<std::uint64_t>(matrix.rows),
                                          static_cast<std::uint64_t>(matrix.cols), matrix.stride),
                 "cublasLtMatrixLayoutInit", product);
    };
    layout(m_left, product.b);
    layout(m_right, product.a);
    layout(m_result, product.c);
    choose(handle, product);
  }
  LtPlan(LtPlan const&) = delete;
  LtPlan& operator=(LtPlan const&) = delete;

  /// Whether there is an algorithm for the shape.
  bool found() const { return m_found; }

  cublasStatus_t run(cublasLtHandle_t handle, LtProduct const& product, void const* alpha,
                     void const* beta, void* workspace, cudaStream_t stream) const {
    void* result = const_cast<void*>(product.c.data);
    return cublasLtMatmul(handle, &m_operation, alpha, product.b.data, &m_left, product.a.data,
                          &m_right, beta, result, &m_result, result, &m_result, &m_algorithm,
                          workspace, k_lt_workspace_bytes, stream);
  }

 private:
  void choose(cublasLtHandle_t handle, LtProduct const& product) {
    cublasLtMatmulPreferenceOpaque_t preference;
    lt_require(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit", product);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      lt_require(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof(value)),
                 "cublasLtMatmulPreferenceSetAttribute", product);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{k_lt_workspace_bytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.b.alignment());
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.a.alignment());
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.c.alignment());
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.c.alignment());
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, &m_operation, &m_left, &m_right, &m_result,
                                       &m_result, &preference, 1, &best, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return;
    lt_require(status, "cublasLtMatmulAlgoGetHeuristic", product);
    m_found = count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    m_algorithm = best.algo;
  }

  // cuBLASLt takes its descriptions by pointers to what is not const.
  mutable cublasLtMatmulDescOpaque_t m_operation;
  mutable cublasLtMatrixLayoutOpaque_t m_left, m_right, m_result;
  cublasLtMatmulAlgo_t m_algorithm{};
  bool m_found = false;
};

/// The library on one device: its handle, the plans made so far and a workspace for each stream.
class LtDevice {
 public:
  LtDevice() {
    const cublasStatus_t status = cublasLtCreate(&m_handle);
    if (status != CUBLAS_STATUS_SUCCESS)
      throw std::runtime_error(std::string("sdp::kernels::gemm: cublasLtCreate returned ") +
                               cublasLtGetStatusName(status));
  }
  ~LtDevice() { cublasLtDestroy(m_handle); }
  LtDevice(LtDevice const&) = delete;
  LtDevice& operator=(LtDevice const&) = delete;

  cublasLtHandle_t handle() const { return m_handle; }

  LtPlan const& plan(LtProduct const& p) {
    const Key key = {static_cast<index_t>(p.transpose_a),
                     static_cast<index_t>(p.transpose_b),
                     static_cast<index_t>(p.a.type),
                     static_cast<index_t>(p.c.type),
                     p.a.rows,
                     p.a.cols,
                     p.a.stride,
                     p.a.alignment(),
                     p.b.rows,
                     p.b.cols,
                     p.b.stride,
                     p.b.alignment(),
                     p.c.stride,
                     p.c.alignment()};
    auto& known = m_plans[key];
    if (!known) known = std::make_unique<LtPlan>(m_handle, p);
    return *known;
  }

  /// Allocated with the first product on a stream.
  void* workspace(Kokkos::Cuda const& exec) {
    auto& buffer = m_workspaces[exec.cuda_stream()];
    if (buffer.extent(0) == 0)
      buffer = Workspace(
          Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "sdp::kernels::gemm_workspace"),
          k_lt_workspace_bytes + k_lt_workspace_alignment);
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
    const auto past = address % k_lt_workspace_alignment;
    return buffer.data() + (past == 0 ? 0 : k_lt_workspace_alignment - past);
  }

 private:
  using Key = std::array<index_t, 14>;
  using Workspace = Kokkos::View<char*, Kokkos::Cuda::memory_space>;
  cublasLtHandle_t m_handle = nullptr;
  std::map<Key, std::unique_ptr<LtPlan>> m_plans;
  std::map<cudaStream_t, Workspace> m_workspaces;
};

/// Every device that this process multiplies on; emptied when Kokkos is finalized.
class LtLibrary {
 public:
  static LtLibrary& instance() {
    static LtLibrary library;
    return library;
  }

  /// The plan for a product and the workspace of the instance's stream. Plans are never removed
  /// before the end, so the reference stays good outside the lock.
  struct Ready {
    cublasLtHandle_t handle;
    LtPlan const& plan;
    void* workspace;
  };
  Ready prepare(Kokkos::Cuda const& exec, LtProduct const& product) {
    std::lock_guard lock(m_mutex);
    auto& device = m_devices[exec.cuda_device()];
    if (!device) device = std::make_unique<LtDevice>();
    return {device->handle(), device->plan(product), device->workspace(exec)};
  }

 private:
  LtLibrary() {
    Kokkos::push_finalize_hook([] { instance().m_devices.clear(); });
  }
  std::mutex m_mutex;
  std::map<int, std::unique_ptr<LtDevice>> m_devices;
};

template <class Exec, class A, class B, class C, class Accum>
bool cublas_lt_gemm(Exec const& exec, Transpose transpose_a, Transpose transpose_b, Accum alpha,
                    A const& a, B const& b, Accum beta, C const& c) {
  static_assert(std::is_same_v<Accum, accum_t<value_t<C>>>);
  const LtProduct product = {transpose_a, transpose_b, lt_matrix(a), lt_matrix(b), lt_matrix(c)};
  const auto ready = LtLibrary::instance().prepare(exec, product);
  if (!ready.plan.found()) return false;
  Kokkos::Profiling::pushRegion("sdp::kernels::gemm_cublas_lt");
  const cublasStatus_t status =
      ready.plan.run(ready.handle, product, &alpha, &beta, ready.workspace, exec.cuda_stream());
  Kokkos::Profiling::popRegion();
  lt_require(status, "cublasLtMatmul", product);
  return true;
}

}  // namespace sdp::kernels::Details

#endif
