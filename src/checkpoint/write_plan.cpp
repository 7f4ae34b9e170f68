// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/write_plan.hpp"

#include <numeric>
#include <stdexcept>
#include <tuple>

#include "base/error.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp {

namespace {

std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

std::string tensor_list(std::vector<TensorSpec> const& tensors) {
  std::string text;
  for (TensorSpec const& tensor : tensors)
    text += tensor.name + file_io::shape_text(tensor.shape) + (tensor.transposed ? "t" : "") + ";";
  return text;
}

/// Lists of all ranks of a communicator one after the other on its rank 0, with their lengths.
std::vector<std::int64_t> gather_lists(MPI_Comm comm, int rank, int size,
                                       std::vector<std::int64_t> const& mine,
                                       std::vector<int>& lengths) {
  const int length = static_cast<int>(mine.size());
  lengths.assign(rank == 0 ? static_cast<std::size_t>(size) : 0, 0);
  check_mpi(MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, comm), "MPI_Gather");
  std::vector<int> starts(lengths.size(), 0);
  if (rank == 0) std::partial_sum(lengths.begin(), lengths.end() - 1, starts.begin() + 1);
  std::vector<std::int64_t> all(rank == 0 ? static_cast<std::size_t>(starts.back()) + lengths.back()
                                          : 0);
  check_mpi(MPI_Gatherv(mine.data(), length, MPI_INT64_T, all.data(), lengths.data(), starts.data(),
                        MPI_INT64_T, 0, comm),
            "MPI_Gatherv");
  return all;
}

}  // namespace

IndexRange ranks_of_part(int part, int parts, int size) {
  const auto first = [&](index_t p) { return (p * size + parts - 1) / parts; };
  return {first(part), first(part + 1)};
}

template <class T>
std::vector<WrittenPiece> cut_request(Writers const& writers, std::string const& path,
                                      std::vector<CheckpointBuffer<T>> const& buffers) {
  std::vector<WrittenPiece> pieces;
  std::vector<std::int64_t> extremes(2, 0);
  writers.together([&] {
    if (buffers.empty() || buffers.front().group != k_group_model)
      throw std::invalid_argument("write_checkpoint: the first buffer must be the model");
    std::string request;
    for (std::size_t b = 0; b < buffers.size(); ++b) {
      CheckpointBuffer<T> const& buffer = buffers[b];
      request += buffer.group + ":" + tensor_list(buffer.table->tensors());
      for (FlatPiece const& piece : flat_pieces(*buffer.table, buffer.owned, buffer.packed))
        pieces.push_back(
            {static_cast<int>(b), piece.tensor, piece.begin, piece.count, piece.source, 0});
    }
    const auto id = static_cast<std::int64_t>(
        crc32_of(request.data(), static_cast<std::int64_t>(request.size())));
    extremes = {id, -id};
  });
  writers.reduce(extremes, MPI_INT64_T, MPI_MAX);
  if (extremes[0] != -extremes[1])
    throw DataError("cannot write " + path + ": the ranks name different tensors");

  // The pieces tile a tensor exactly when their lengths add up to its size and all inner boundaries
  // cancel in pairs.
  std::vector<std::size_t> first{0};
  for (CheckpointBuffer<T> const& buffer : buffers)
    first.push_back(first.back() + buffer.table->tensors().size());
  std::vector<std::uint64_t> lengths(first.back(), 0);
  std::vector<std::uint64_t> boundaries(first.back(), 0);
  for (WrittenPiece const& piece : pieces) {
    const std::size_t at = first[piece.group] + piece.tensor;
    lengths[at] += static_cast<std::uint64_t>(piece.count);
    boundaries[at] ^= mix(static_cast<std::uint64_t>(piece.begin) + 1) ^
                      mix(static_cast<std::uint64_t>(piece.begin + piece.count) + 1);
  }
  writers.reduce(lengths, MPI_UINT64_T, MPI_SUM);
  writers.reduce(boundaries, MPI_UINT64_T, MPI_BXOR);
  std::size_t at = 0;
  for (CheckpointBuffer<T> const& buffer : buffers) {
    for (TensorSpec const& tensor : buffer.table->tensors()) {
      const auto size = static_cast<std::uint64_t>(tensor.size());
      if (lengths[at] != size || boundaries[at] != (mix(1) ^ mix(size + 1)))
        throw DataError("cannot write " + path + ": the ranks give " + std::to_string(lengths[at]) +
                        " elements of /" + buffer.group + "/" + tensor.name +
                        ", which do not cover its " + std::to_string(size) + " once each");
      ++at;
    }
  }
  return pieces;
}

template std::vector<WrittenPiece> cut_request(Writers const&, std::string const&,
                                               std::vector<CheckpointBuffer<float>> const&);
template std::vector<WrittenPiece> cut_request(Writers const&, std::string const&,
                                               std::vector<CheckpointBuffer<double>> const&);

PartGroup::PartGroup(Writers const& writers, int parts) {
  while (writers.rank() >= ranks_of_part(m_part, parts, writers.size()).end) ++m_part;
  check_mpi(MPI_Comm_split(writers.comm(), m_part, writers.rank(), &m_comm), "MPI_Comm_split");
  MPI_Comm_rank(m_comm, &m_rank);
  MPI_Comm_size(m_comm, &m_size);
}

PartGroup::~PartGroup() {
  MPI_Comm_free(&m_comm);
}

std::vector<PartTensor> PartGroup::gather(std::vector<WrittenPiece> const& pieces) {
  std::vector<std::int64_t> list;
  for (WrittenPiece const& piece : pieces)
    list.insert(list.end(), {piece.group, piece.tensor, piece.begin, piece.count});
  list = gather_lists(m_comm, m_rank, m_size, list, m_counts);
  for (int& count : m_counts) count /= 4;

  std::vector<PartTensor> tensors;
  std::vector<std::size_t> order(list.size() / 4);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    std::int64_t const *x = &list[4 * a], *y = &list[4 * b];
    return std::tie(x[0], x[1], x[2]) < std::tie(y[0], y[1], y[2]);
  });
  m_tensor.resize(order.size());
  m_place.resize(order.size());
  index_t place = 0;
  for (std::size_t i : order) {
    const auto group = static_cast<int>(list[4 * i]);
    const auto tensor = static_cast<int>(list[4 * i + 1]);
    const IndexRange run{list[4 * i + 2], list[4 * i + 2] + list[4 * i + 3]};
    if (tensors.empty() || tensors.back().group != group || tensors.back().tensor != tensor) {
      tensors.push_back({group, tensor, {}});
      place = 0;
    }
    std::vector<IndexRange>& runs = tensors.back().runs;
    if (!runs.empty() && runs.back().end == run.begin)
      runs.back().end = run.end;
    else
      runs.push_back(run);
    m_tensor[i] = tensors.size() - 1;
    m_place[i] = place;
    place += run.size();
  }
  return tensors;
}

void PartGroup::place(std::vector<std::int64_t> const& offsets, std::int64_t element_bytes,
                      std::vector<WrittenPiece>& pieces) {
  std::vector<std::int64_t> all;
  for (std::size_t i = 0; i < m_tensor.size(); ++i)
    all.push_back(offsets[m_tensor[i]] + m_place[i] * element_bytes);
  std::vector<int> starts(m_counts.size(), 0);
  if (!m_counts.empty()) std::partial_sum(m_counts.begin(), m_counts.end() - 1, starts.begin() + 1);
  std::vector<std::int64_t> mine(pieces.size());
  check_mpi(MPI_Scatterv(all.data(), m_counts.data(), starts.data(), MPI_INT64_T, mine.data(),
                         static_cast<int>(mine.size()), MPI_INT64_T, 0, m_comm),
            "MPI_Scatterv");
  for (std::size_t i = 0; i < pieces.size(); ++i) pieces[i].offset = mine[i];
}

std::vector<std::vector<PartTensor>> gather_parts(Writers const& writers, int parts,
                                                  std::vector<PartTensor> const& mine) {
  std::vector<std::int64_t> list;
  for (PartTensor const& tensor : mine) {
    list.insert(list.end(),
                {tensor.group, tensor.tensor, static_cast<std::int64_t>(tensor.runs.size())});
    for (IndexRange const& run : tensor.runs) list.insert(list.end(), {run.begin, run.end});
  }
  std::vector<int> lengths;
  list = gather_lists(writers.comm(), writers.rank(), writers.size(), list, lengths);
  if (!writers.is_root()) return {};
  std::vector<std::vector<PartTensor>> all(static_cast<std::size_t>(parts));
  std::size_t at = 0;
  std::size_t end = 0;
  int rank = 0;
  for (int part = 0; part < parts; ++part) {
    for (; rank < ranks_of_part(part, parts, writers.size()).end; ++rank)
      end += static_cast<std::size_t>(lengths[rank]);
    while (at < end) {
      PartTensor tensor{static_cast<int>(list[at]), static_cast<int>(list[at + 1]), {}};
      const std::int64_t runs = list[at + 2];
      at += 3;
      for (std::int64_t i = 0; i < runs; ++i, at += 2)
        tensor.runs.push_back({list[at], list[at + 1]});
      all[part].push_back(std::move(tensor));
    }
  }
  return all;
}

}  // namespace sdp
