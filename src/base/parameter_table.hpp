// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// How the elements of a tensor start. `normal` draws N(0, init_std^2) from the counter-based
/// stream keyed by (seed, tensor name, logical element index).
enum class Init { zeros, ones, normal };

/// One logical tensor of a model, the same on every rank.
///
/// A tensor is stored as (rows, cols), the axis along which subnetworks are cut leading: a unit of
/// the model is a range of rows. A one-dimensional tensor that is never cut is one row.
struct TensorSpec {
  std::string name;            ///< Hugging Face or PyTorch name, also the name in checkpoints
  std::vector<index_t> shape;  ///< in storage order; its product is rows * cols
  bool transposed = false;     ///< storage is the transpose of the outside (out, in) convention
  index_t rows = 0;
  index_t cols = 0;
  bool decay = true;       ///< takes part in weight decay
  double lr_factor = 1.0;  ///< multiplies the learning rate
  Init init = Init::normal;
  double init_std = 0.0;
  /// A running statistic: its "gradient" is the new value that a worker found, and the average over
  /// the holders replaces it. No parameter: neither in the norm of the gradient nor decayed.
  bool statistic = false;

  index_t size() const { return rows * cols; }
};

/// Rows [row_begin, row_begin + rows) of a logical tensor, held contiguously at `offset` elements
/// into this worker's flat buffers. `unit` is the droppable unit that the rows belong to, or
/// k_shared when every worker holds them.
struct Span {
  int tensor;
  index_t row_begin;
  index_t rows;
  index_t offset;
  int unit;
};
inline constexpr int k_shared = -1;

/// Maps tensors and rows to offsets in the flat weight, gradient and moment buffers of one worker.
/// Tensors lie in the order in which backward finishes their gradients, so that a communication
/// bucket is one contiguous range.
class ParameterTable {
 public:
  ParameterTable() = default;
  /// Everything held: one span per tensor.
  explicit ParameterTable(std::vector<TensorSpec> tensors);
  /// `held[t]`: the spans of tensor t that this worker holds, ascending by row; offsets are
  /// assigned here.
  ParameterTable(std::vector<TensorSpec> tensors, std::vector<std::vector<Span>> const& held);

  std::vector<TensorSpec> const& tensors() const { return m_tensors; }
  std::vector<Span> const& spans() const { return m_spans; }

  index_t size() const { return m_size; }                  ///< held elements
  index_t logical_size() const { return m_logical_size; }  ///< elements of the whole model
  index_t offset(int tensor) const { return m_offsets[tensor]; }
  index_t held_rows(int tensor) const { return m_held_rows[tensor]; }
  index_t held_size(int tensor) const { return m_held_rows[tensor] * m_tensors[tensor].cols; }
  /// Index of the tensor of that name, -1 where there is none.
  int find(std::string const& name) const;

  /// (held rows, cols) window of tensor t in a flat buffer of size() elements.
  template <class T>
  Window2<T> matrix(View1<T> const& flat, int tensor) const {
    return Window2<T>(flat.data() + m_offsets[tensor], m_held_rows[tensor], m_tensors[tensor].cols);
  }
  /// The same elements as one axis.
  template <class T>
  Window1<T> vector(View1<T> const& flat, int tensor) const {
    return Window1<T>(flat.data() + m_offsets[tensor], held_size(tensor));
  }

 private:
  std::vector<TensorSpec> m_tensors;
  std::vector<Span> m_spans;
  std::vector<index_t> m_offsets;
  std::vector<index_t> m_held_rows;
  index_t m_size = 0;
  index_t m_logical_size = 0;
};

}  // namespace sdp
