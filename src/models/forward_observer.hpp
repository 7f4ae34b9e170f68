// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.hpp"

namespace sdp {

/// Told by a model which weights it reads next, so that they can arrive while forward runs.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  /// The work given to the execution space after this call reads [begin, size) of the flat weight
  /// buffer. The buffer is read from its end (embedding, layer 0, ..., final norm, head), so begin
  /// falls from call to call.
  virtual void weights_needed(index_t begin) = 0;
  /// Called between large kernels: a place to move messages along.
  virtual void progress() = 0;
};

}  // namespace sdp
