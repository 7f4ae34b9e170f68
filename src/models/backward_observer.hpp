// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.hpp"

namespace sdp {

/// Told by a model how far backward has come, so that gradients can leave while it still runs.
class BackwardObserver {
 public:
  virtual ~BackwardObserver() = default;
  /// Everything in [0, end) of the flat gradient buffer is final once the work given to the
  /// execution space so far is done.
  virtual void gradients_ready(index_t end) = 0;
  /// Called between large kernels: a place to move messages along.
  virtual void progress() = 0;
};

}  // namespace sdp
