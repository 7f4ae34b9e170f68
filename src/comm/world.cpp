// SPDX-License-Identifier: Apache-2.0
#include "comm/world.hpp"

#include <algorithm>
#include <numeric>

#include "base/heartbeat.hpp"
#include "comm/mpi_error.hpp"

namespace sdp {

namespace {

/// Counts in MPI are int; longer buffers go in pieces of this many elements.
constexpr std::int64_t k_chunk = std::int64_t{1} << 28;

template <class T>
T reduce(MPI_Comm comm, T value, MPI_Datatype type, MPI_Op op) {
  T result{};
  const heartbeat::Collective waits("MPI_Allreduce");
  check_mpi(MPI_Allreduce(&value, &result, 1, type, op, comm), "MPI_Allreduce");
  return result;
}

template <class T>
void reduce_in_place(MPI_Comm comm, T* values, std::int64_t count, MPI_Datatype type) {
  const heartbeat::Collective waits("MPI_Allreduce");
  for (std::int64_t begin = 0; begin < count; begin += k_chunk)
    check_mpi(
        MPI_Allreduce(MPI_IN_PLACE, values + begin,
                      static_cast<int>(std::min(k_chunk, count - begin)), type, MPI_SUM, comm),
        "MPI_Allreduce");
}

template <class E>
[[noreturn]] void throw_agreed(E error) {
  error.set_agreed();
  throw error;
}

[[noreturn]] void rethrow(ExitCode code, std::string const& text) {
  switch (code) {
    case ExitCode::usage:
      throw_agreed(ConfigError(text));
    case ExitCode::data:
      throw_agreed(DataError(text));
    case ExitCode::non_finite:
      throw_agreed(NonFiniteError(text));
    case ExitCode::communication:
      throw_agreed(CommunicationError(text));
    default:
      throw_agreed(Error(code, text));
  }
}

}  // namespace

World World::from(MPI_Comm parent, int declared_ranks_per_node) {
  World world;
  check_mpi(MPI_Comm_dup(parent, &world.m_comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(world.m_comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(world.m_comm, &world.m_rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(world.m_comm, &world.m_size), "MPI_Comm_size");
  world.m_worker = world.m_rank;
  world.m_workers = world.m_size;
  if (declared_ranks_per_node > 0) {
    if (world.m_size % declared_ranks_per_node != 0)
      throw on_all_ranks(ConfigError(
          "system.ranks_per_node = " + std::to_string(declared_ranks_per_node) +
          " does not divide the " + std::to_string(world.m_size) + " ranks of this run"));
    world.m_ranks_per_node = world.m_node_size = declared_ranks_per_node;
    world.m_node_rank = world.m_rank % declared_ranks_per_node;
    world.m_node_ranks.resize(static_cast<std::size_t>(declared_ranks_per_node));
    std::iota(world.m_node_ranks.begin(), world.m_node_ranks.end(),
              world.m_rank - world.m_node_rank);
    return world;
  }
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(
      MPI_Comm_split_type(world.m_comm, MPI_COMM_TYPE_SHARED, world.m_rank, MPI_INFO_NULL, &node),
      "MPI_Comm_split_type");
  int ranks = 1;
  MPI_Comm_rank(node, &world.m_node_rank);
  MPI_Comm_size(node, &ranks);
  world.m_node_ranks.resize(static_cast<std::size_t>(ranks));
  check_mpi(MPI_Allgather(&world.m_rank, 1, MPI_INT, world.m_node_ranks.data(), 1, MPI_INT, node),
            "MPI_Allgather");
  MPI_Comm_free(&node);
  world.m_ranks_per_node = static_cast<int>(world.max(static_cast<std::int64_t>(ranks)));
  const int first = world.m_rank / world.m_ranks_per_node * world.m_ranks_per_node;
  const bool in_order = world.m_node_rank == world.m_rank - first &&
                        ranks == std::min(world.m_ranks_per_node, world.m_size - first);
  if (world.all(in_order)) world.m_node_size = world.m_ranks_per_node;
  return world;
}

World World::lone(int worker, int workers) {
  World world = from(MPI_COMM_SELF);
  world.m_worker = worker;
  world.m_workers = workers;
  return world;
}

World World::split(int group) const {
  MPI_Comm comm = MPI_COMM_NULL;
  {
    const heartbeat::Collective waits("MPI_Comm_split");
    check_mpi(MPI_Comm_split(m_comm, group, m_rank, &comm), "MPI_Comm_split");
  }
  World world = from(comm);
  MPI_Comm_free(&comm);
  return world;
}

World::~World() {
  if (m_comm == MPI_COMM_NULL) return;
  int finalized = 0;
  if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Comm_free(&m_comm);
}

void World::swap(World& other) noexcept {
  std::swap(m_comm, other.m_comm);
  std::swap(m_rank, other.m_rank);
  std::swap(m_size, other.m_size);
  std::swap(m_worker, other.m_worker);
  std::swap(m_workers, other.m_workers);
  std::swap(m_node_rank, other.m_node_rank);
  std::swap(m_ranks_per_node, other.m_ranks_per_node);
  std::swap(m_node_size, other.m_node_size);
  std::swap(m_node_ranks, other.m_node_ranks);
}

void World::barrier() const {
  const heartbeat::Collective waits("MPI_Barrier");
  check_mpi(MPI_Barrier(m_comm), "MPI_Barrier");
}
double World::sum(double value) const {
  return reduce(m_comm, value, MPI_DOUBLE, MPI_SUM);
}
double World::min(double value) const {
  return reduce(m_comm, value, MPI_DOUBLE, MPI_MIN);
}
double World::max(double value) const {
  return reduce(m_comm, value, MPI_DOUBLE, MPI_MAX);
}
std::int64_t World::sum(std::int64_t value) const {
  return reduce(m_comm, value, MPI_INT64_T, MPI_SUM);
}
std::int64_t World::min(std::int64_t value) const {
  return reduce(m_comm, value, MPI_INT64_T, MPI_MIN);
}
std::int64_t World::max(std::int64_t value) const {
  return reduce(m_comm, value, MPI_INT64_T, MPI_MAX);
}

MinMeanMax World::min_mean_max(double value) const {
  const std::vector<double> values = all_gather(value);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {*low, std::accumulate(values.begin(), values.end(), 0.0) / m_size, *high};
}

void World::sum_in_place(double* values, std::int64_t count) const {
  reduce_in_place(m_comm, values, count, MPI_DOUBLE);
}
void World::sum_in_place(std::vector<std::int64_t>& values) const {
  reduce_in_place(m_comm, values.data(), static_cast<std::int64_t>(values.size()), MPI_INT64_T);
}

void World::broadcast_bytes(void* bytes, std::int64_t count, int root) const {
  const heartbeat::Collective waits("MPI_Bcast");
  for (std::int64_t begin = 0; begin < count; begin += k_chunk)
    check_mpi(MPI_Bcast(static_cast<char*>(bytes) + begin,
                        static_cast<int>(std::min(k_chunk, count - begin)), MPI_BYTE, root, m_comm),
              "MPI_Bcast");
}

void World::broadcast(std::string& text, int root) const {
  std::int64_t count = static_cast<std::int64_t>(text.size());
  broadcast_bytes(&count, sizeof(count), root);
  text.resize(static_cast<std::size_t>(count));
  broadcast_bytes(text.data(), count, root);
}

std::vector<std::string> World::gather(std::string const& text, int root) const {
  if (static_cast<std::int64_t>(text.size()) * m_size > k_chunk)
    throw CommunicationError("World::gather: " + std::to_string(text.size()) +
                             " bytes are too long a text to gather");
  const heartbeat::Collective waits("MPI_Gather");
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(m_rank == root ? m_size : 0);
  check_mpi(MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, root, m_comm),
            "MPI_Gather");
  std::vector<int> offsets(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), offsets.begin(), 0);
  std::string joined(
      lengths.empty() ? 0 : static_cast<std::size_t>(offsets.back() + lengths.back()), '\0');
  check_mpi(MPI_Gatherv(text.data(), length, MPI_BYTE, joined.data(), lengths.data(),
                        offsets.data(), MPI_BYTE, root, m_comm),
            "MPI_Gatherv");
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < lengths.size(); ++i)
    texts.push_back(
        joined.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(lengths[i])));
  return texts;
}

std::vector<double> World::all_gather(double value) const {
  const heartbeat::Collective waits("MPI_Allgather");
  std::vector<double> values(static_cast<std::size_t>(m_size));
  check_mpi(MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, m_comm),
            "MPI_Allgather");
  return values;
}

World::Failure World::describe(std::exception const& error) {
  if (auto const* known = dynamic_cast<Error const*>(&error)) return {known->code(), known->what()};
  return {ExitCode::data, error.what()};
}

void World::agree(std::optional<Failure> const& failure) const {
  const auto first = static_cast<int>(min(static_cast<std::int64_t>(failure ? m_rank : m_size)));
  if (first == m_size) return;
  auto code = static_cast<int>(failure ? failure->code : ExitCode::ok);
  std::string text = failure ? failure->text : std::string();
  broadcast_bytes(&code, sizeof(code), first);
  broadcast(text, first);
  rethrow(static_cast<ExitCode>(code), text);
}

}  // namespace sdp
