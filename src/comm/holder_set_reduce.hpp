// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <vector>

#include "base/index_range.hpp"
#include "base/types.hpp"
#include "comm/owners.hpp"
#include "comm/world.hpp"
#include "kernels/update/copy_spans.hpp"

namespace sdp {

/// The plain way to average gradients inside holder sets, which the exchange is measured against:
/// a communicator for every set, and one blocking MPI_Allreduce after another, in the same order of
/// sets on every rank. A set whose elements do not lie together here is packed and unpacked. For a
/// dense layout it is one all-reduce of the whole buffer, in place.
template <class G>
class HolderSetReduce {
 public:
  /// Collective. The buffers must be memory that MPI can address. The world and the layout are used
  /// here alone.
  HolderSetReduce(World const& world, ExchangeLayout const& layout, ExecSpace exec = ExecSpace());
  ~HolderSetReduce();
  HolderSetReduce(HolderSetReduce const&) = delete;
  HolderSetReduce& operator=(HolderSetReduce const&) = delete;

  /// Distinct holder sets of the layout.
  static index_t count_sets(ExchangeLayout const& layout);

  /// gradients = the mean over the holders of each element, in the order of MPI. Blocks; collective
  /// over the world.
  void average(View1<G> const& gradients);

 private:
  /// A set that this rank is in.
  struct Set {
    MPI_Comm comm = MPI_COMM_NULL;
    int holders = 1;
    index_t elements = 0;
    std::vector<IndexRange> ranges;  ///< of the gradient buffer, ascending, adjacent ones merged
    index_t first_span = 0;
    index_t spans = 0;
  };

  ExecSpace m_exec;
  std::vector<Set> m_sets;
  View1<kernels::CopySpan> m_spans;
  View1<G> m_packed;  ///< (elements of the largest set that is packed)
};

extern template class HolderSetReduce<float>;
extern template class HolderSetReduce<double>;

}  // namespace sdp
