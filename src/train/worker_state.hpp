// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device_pool.hpp"
#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/exchange.hpp"
#include "comm/node_memory.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "models/model.hpp"
#include "optim/optimizer.hpp"
#include "train/arrangement.hpp"

namespace sdp {

/// Everything on one rank that depends on the mask: flat buffers, optimizer, model and exchange.
/// Built for an arrangement, and rebuilt for another one while the run goes on. In a lone world it
/// is that of one worker whose exchange has nobody to send to.
///
/// V: storage type of weights and activations; gradients, moments and, where it is wider, master
/// weights have the type in which V is summed. A master weight is where the element is updated, and
/// every stored copy of it is that master weight rounded once.
template <class V>
class WorkerState {
 public:
  using Wide = kernels::accum_t<V>;
  using WorkerExchange = Exchange<Wide, V>;

  /// Collective. Allocates weights, gradients and optimizer, whose contents are still to come, and
  /// the model. An allocation that fails is a ConfigError on every rank. `transport` carries the
  /// exchange, see exchange_transport().
  WorkerState(World const& world, Config const& config, Arrangement arrangement,
              ExecSpace const& exec, QueueFactory transport);

  Arrangement const& arrangement() const { return m_arrangement; }
  ModelSubnetwork const& subnetwork() const { return m_subnetwork; }
  View1<V> const& weights() const { return m_weights; }  ///< as subnetwork().weights says
  View1<Wide> const& grads() const { return m_grads; }   ///< as subnetwork().gradients says
  Optimizer<V>& optimizer() { return *m_optimizer; }
  Model<V>& model() { return *m_model; }
  WorkerExchange& exchange() { return *m_exchange; }
  bool sharded() const { return m_arrangement.gradient_return == GradientReturn::none; }

  /// Initial weights of the run; moments are zero. Rank-local.
  void initialise(std::uint64_t seed);
  /// Weights of another run or of another program; moments are zero. Rank-local; ConfigError or
  /// DataError.
  void load(std::string const& path);
  /// Weights and moments of a checkpoint, whatever mask, sharding or number of ranks wrote it.
  /// Rank-local; ConfigError when it was written with another optimizer.
  void restore(CheckpointReader const& reader);
  /// The first of this rank's weights and moments, by its name in checkpoints, that has a value
  /// which is not finite; nullopt where all are. The return of weights must have finished.
  /// Rank-local.
  std::optional<std::string> not_finite() const;
  /// What this rank has to write into a checkpoint. The return of weights must have finished.
  std::vector<CheckpointBuffer<Wide>> checkpoint_buffers() const;

  /// Frees the activations, so that evaluation may use their memory, and allocates them again;
  /// the second is collective.
  void release_model();
  void rebuild_model();

  /// Goes on with another arrangement of the same model: weights and moments move from their owners
  /// to the workers that hold them now, in one transaction, and nothing else of the run changes.
  /// Collective. Needs the memory of both arrangements' weights and moments, but neither gradients
  /// nor activations meanwhile.
  void rearrange(Arrangement next);

 private:
  UpdateScope update_scope(ExchangeSchedule const& schedule) const;
  /// Where moments and master weights lie.
  std::vector<FlatPiece> state_pieces() const;
  template <class F>
  void collectively_allocate(F&& f) const;
  void reserve_device_memory() const;
  void allocate_gradients();
  void build_optimizer(ExchangeSchedule const& schedule);
  void build_model();
  void build_exchange(ExchangeSchedule schedule);
  void move_state(Arrangement const& old, ExchangeSchedule const& schedule);

  World const& m_world;
  Config const& m_config;
  ExecSpace m_exec;
  QueueFactory m_transport;
  Arrangement m_arrangement;
  ModelSubnetwork m_subnetwork;
  std::vector<IndexRange> m_owned_gradients;  ///< of the gradient buffer
  std::vector<IndexRange> m_owned_weights;    ///< the same elements in the weight buffer
  std::unique_ptr<NodeMemory> m_node_memory;  ///< of the gradients, where a node shares them
  PoolRegion m_weight_memory, m_gradient_memory, m_optimizer_memory, m_model_memory;
  PoolRegion m_exchange_memory;
  View1<V> m_weights;
  View1<Wide> m_grads;
  std::optional<Optimizer<V>> m_optimizer;
  std::unique_ptr<Model<V>> m_model;
  std::unique_ptr<WorkerExchange> m_exchange;
};

extern template class WorkerState<float>;
extern template class WorkerState<double>;
extern template class WorkerState<kernels::bf16>;

}  // namespace sdp
