// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "comm/grouped_queue.hpp"
#include "comm/nccl_communicator.hpp"

namespace sdp {

/// Messages over NCCL: the posts of a group are one ncclGroup of ncclSend and ncclRecv on the
/// communicator's stream. Nothing waits for the device.
class NcclQueue : public GroupedQueue {
 public:
  NcclQueue(World const& world, std::shared_ptr<NcclCommunicator> communicator,
            MessagePlan const& plan);

  void begin_pass(int pass) override;
  std::vector<int> const& test() override;
  ExecSpace const* stream() const override { return &m_communicator->exec(); }
  void sum(std::int64_t* data, index_t count) override;

 protected:
  void issue(std::vector<Post> const& posts) override;

 private:
  void start(Post const& post);

  std::shared_ptr<NcclCommunicator> m_communicator;
  int m_pass = -1;
  std::set<int> m_connected;  ///< passes that have connected their peers
  bool m_has_summed = false;
};

}  // namespace sdp
