// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/ordered_sum.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace sdp::kernels {
namespace {

template <class T>
using Vector = Kokkos::View<T*>;

/// The sum over the leaves [low, low + size) by its definition; `present` says whether there is
/// any.
template <class Acc>
Acc tree(std::vector<int> const& ids, std::vector<Acc> const& values, std::int64_t low,
         std::int64_t size, bool& present) {
  present = false;
  const auto first = std::lower_bound(ids.begin(), ids.end(), low);
  if (first == ids.end() || *first >= low + size) return Acc(0);
  present = true;
  if (size == 1) return values[static_cast<std::size_t>(first - ids.begin())];
  bool has_left = false;
  bool has_right = false;
  const Acc left = tree(ids, values, low, size / 2, has_left);
  const Acc right = tree(ids, values, low + size / 2, size / 2, has_right);
  return has_left && has_right ? left + right : has_left ? left : right;
}

template <class T>
std::vector<T> random_values(index_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& value : values)
    value = static_cast<T>(std::ldexp(normal(generator), static_cast<int>(generator() % 20)));
  return values;
}

template <class T>
Vector<T> device(std::vector<T> const& values) {
  Vector<T> view("values", values.size());
  auto host = Kokkos::create_mirror_view(view);
  std::copy(values.begin(), values.end(), host.data());
  Kokkos::deep_copy(view, host);
  return view;
}

/// A list in memory of the execution space, and the buffers of peers.
template <class T>
struct DeviceList {
  DeviceList(SumList const& list, std::vector<SumPeer<T>> const& buffers)
      : terms(device(list.terms)), pieces(device(list.pieces)), peers(device(buffers)) {}
  Vector<SumTerm> terms;
  Vector<SumPiece> pieces;
  Vector<SumPeer<T>> peers;
};

/// One sum; the first of its terms lies among what was received, that of `own` in the buffer of the
/// sum, and the others with peers.
template <class T>
void check(std::vector<int> const& ids, index_t size, double scale, int own = -1) {
  constexpr index_t k_before = 7;  // elements in front of every term
  std::vector<std::vector<T>> host;
  std::vector<Vector<T>> buffers;
  std::vector<SumPeer<T>> peers;
  std::vector<SumSource> sources;
  T const* received = nullptr;
  Vector<T> out = device(std::vector<T>(static_cast<std::size_t>(size + k_before),
                                        std::numeric_limits<T>::quiet_NaN()));
  for (int id : ids) {
    host.push_back(random_values<T>(size + k_before, static_cast<unsigned>(id) + 1));
    buffers.push_back(device(host.back()));
    const auto place = static_cast<int>(sources.size());
    peers.push_back({buffers.back().data()});
    int buffer = place;
    if (place == own) {
      buffer = k_sum_own;
      out = buffers.back();
    } else if (place == 0) {
      buffer = k_sum_received;
      received = buffers.back().data();
    }
    sources.push_back({id, buffer, k_before});
  }
  SumList list;
  append_sum(list, sources, scale, k_before, size);
  const DeviceList<T> on_device(list, peers);
  Kokkos::DefaultExecutionSpace exec;
  ordered_sum(exec, on_device.terms, on_device.pieces,
              SumBuffers<T, T>{out.data(), received, on_device.peers.data()});
  exec.fence();
  auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
  for (index_t i = k_before; i < size + k_before; ++i) {
    std::vector<T> leaves;
    for (auto const& values : host) leaves.push_back(values[static_cast<std::size_t>(i)]);
    bool present = false;
    ASSERT_EQ(result(i),
              tree<T>(ids, leaves, 0, std::int64_t{1} << 31, present) * static_cast<T>(scale))
        << ids.size() << " terms, element " << i << " of " << size;
  }
}

std::vector<int> consecutive(int count) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ids[static_cast<std::size_t>(i)] = i;
  return ids;
}

TEST(OrderedSum, FollowsTheTreeForEveryCount) {
  for (int count = 1; count <= 64; ++count) check<float>(consecutive(count), 67, 1.0 / count);
  check<double>(consecutive(7), 67, 1.0 / 7);
}

TEST(OrderedSum, SkipsAbsentLeaves) {
  std::mt19937 generator(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<int> ids;
    for (int id = 0; id < 64; ++id)
      if (generator() % 3 == 0) ids.push_back(id);
    if (ids.empty()) ids.push_back(9);
    check<float>(ids, 33, 1.0 / static_cast<double>(ids.size()));
  }
  check<double>({3, 100, 101, 5000, 16383}, 33, 0.2);
}

TEST(OrderedSum, HoldsTheDeepestStack) {
  std::vector<int> ids{0};  // every next leaf lies in the upper half of what is left
  for (int bit = 30; bit >= 0; --bit) ids.push_back(ids.back() + (1 << bit));
  check<float>(ids, 300, 1.0);
}

TEST(OrderedSum, AnyNumberOfTerms) {
  std::mt19937 generator(7);
  for (int count : {1, 5, 64, 65, 128, 300, 4100}) {
    for (bool sparse : {false, true}) {
      std::vector<int> ids;
      for (int id = 0; static_cast<int>(ids.size()) < count; ++id)
        if (!sparse || generator() % 3 == 0) ids.push_back(id);
      check<float>(ids, 19, 0.3, count / 2);
    }
  }
}

/// Terms and sum rounded to bf16, one term being the buffer of the sum itself.
void check_rounded(std::vector<int> const& ids, int own, index_t size) {
  std::vector<std::vector<float>> host;
  std::vector<bf16> received;
  std::vector<SumSource> sources;
  std::vector<float> out(static_cast<std::size_t>(size), std::numeric_limits<float>::quiet_NaN());
  for (int id : ids) {
    host.push_back(random_values<float>(size, static_cast<unsigned>(id) + 1));
    if (id == own) {
      sources.push_back({id, k_sum_own, 0});
      out = host.back();
      continue;
    }
    sources.push_back({id, k_sum_received, static_cast<index_t>(received.size())});
    for (float value : host.back()) received.push_back(bf16(value));
  }
  const double scale = 1.0 / static_cast<double>(ids.size());
  SumList list;
  append_sum(list, sources, scale, 0, size);
  const DeviceList<float> on_device(list, {});
  const Vector<bf16> messages = device(received);
  const Vector<float> sum = device(out);
  ordered_sum(Kokkos::DefaultExecutionSpace(), on_device.terms, on_device.pieces,
              SumBuffers<bf16, float>{sum.data(), messages.data(), nullptr});
  Kokkos::fence();
  auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), sum);
  for (index_t i = 0; i < size; ++i) {
    std::vector<float> leaves;
    for (auto const& values : host)
      leaves.push_back(static_cast<float>(bf16(values[static_cast<std::size_t>(i)])));
    bool present = false;
    const float expected = tree<float>(ids, leaves, 0, std::int64_t{1} << 31, present);
    ASSERT_EQ(result(i), static_cast<float>(bf16(expected * static_cast<float>(scale))))
        << ids.size() << " terms, element " << i;
  }
}

TEST(OrderedSum, RoundedTermsAndSum) {
  check_rounded({3}, 3, 67);
  check_rounded({0, 1, 2, 3}, 2, 1000);
  check_rounded({0, 2, 5, 9}, 4, 67);  // none of the terms is the worker's own
  check_rounded(consecutive(64), 63, 67);
  check_rounded(consecutive(130), 70, 67);
  check_rounded(consecutive(4200), 4199, 5);
}

/// Several sums of one launch: runs of the own buffer with other elements between them, each of
/// other contributors, at other places of their buffers.
TEST(OrderedSum, ManySumsAtOnceAndBackToTheirTerms) {
  constexpr int k_peers = 5, k_runs = 40;
  std::mt19937 generator(11);
  std::vector<std::vector<double>> host;
  const index_t size = 40 * 9000;
  for (int p = 0; p <= k_peers; ++p)  // the last one is the own buffer
    host.push_back(random_values<double>(size, static_cast<unsigned>(p) + 1));
  auto expected = host;
  SumList list;
  index_t own = 0;
  std::vector<index_t> at(k_peers, 0);
  for (int run = 0; run < k_runs; ++run) {
    const index_t count = run % 7 == 0 ? 8200 : static_cast<index_t>(generator() % 300 + 1);
    const double scale = 1.0 / (run + 1);
    own += static_cast<index_t>(generator() % 5);
    std::vector<SumSource> sources;
    std::vector<int> ids;
    for (int p = 0; p < k_peers; ++p) {
      at[static_cast<std::size_t>(p)] += static_cast<index_t>(generator() % 5);
      if (generator() % 2 == 0) continue;
      sources.push_back({p, p, at[static_cast<std::size_t>(p)]});
      ids.push_back(p);
    }
    sources.push_back({k_peers, k_sum_own, own});
    ids.push_back(k_peers);
    append_sum(list, sources, scale, own, count);
    for (index_t i = 0; i < count; ++i) {
      std::vector<double> leaves;
      for (SumSource const& source : sources)
        leaves.push_back(
            host[static_cast<std::size_t>(source.id)][static_cast<std::size_t>(source.offset + i)]);
      bool present = false;
      const double sum = tree<double>(ids, leaves, 0, 8, present) * scale;
      for (SumSource const& source : sources)
        expected[static_cast<std::size_t>(source.id)][static_cast<std::size_t>(source.offset + i)] =
            sum;
    }
    own += count;
    for (SumSource const& source : sources)
      if (source.id < k_peers) at[static_cast<std::size_t>(source.id)] += count;
  }
  const auto differences = [](Vector<double> const& view, std::vector<double> const& values) {
    const auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
    return std::memcmp(result.data(), values.data(), values.size() * sizeof(double));
  };
  for (bool hand_back : {false, true}) {
    SCOPED_TRACE(hand_back);
    std::vector<Vector<double>> buffers;
    std::vector<SumPeer<double>> peers;
    for (auto const& values : host) {
      buffers.push_back(device(values));
      peers.push_back({buffers.back().data()});
    }
    const DeviceList<double> on_device(list, peers);
    const Kokkos::DefaultExecutionSpace exec;
    ordered_sum(
        exec, on_device.terms, on_device.pieces,
        SumBuffers<double, double>{buffers[k_peers].data(), nullptr, on_device.peers.data()},
        hand_back);
    exec.fence();
    EXPECT_EQ(differences(buffers[k_peers], expected[k_peers]), 0);
    for (std::size_t p = 0; p < k_peers; ++p)
      EXPECT_EQ(differences(buffers[p], hand_back ? expected[p] : host[p]), 0) << p;
    if (hand_back) continue;
    hand_back_sums(exec, on_device.terms, on_device.pieces,
                   static_cast<double const*>(buffers[k_peers].data()),
                   static_cast<SumPeer<double> const*>(on_device.peers.data()));
    exec.fence();
    for (std::size_t p = 0; p <= k_peers; ++p)
      EXPECT_EQ(differences(buffers[p], expected[p]), 0) << p;
  }
}

TEST(OrderedSum, AnySize) {
  for (index_t size : {0, 1, 2, 255, 256, 257, 1000, 4096, 4097, 8300})
    check<float>({0, 1, 2, 5}, size, 0.25);
}

TEST(OrderedSum, MayOverwriteAnyOfItsTerms) {
  for (int alias = 0; alias < 5; ++alias) check<float>({0, 2, 3, 4, 7}, 777, 0.2, alias);
}

TEST(OrderedSum, DiffersFromTheSumInSequence) {
  // Guards the tests above: a kernel that adds from left to right must not pass them.
  const std::vector<int> ids{0, 1, 2, 3};
  bool present = false;
  EXPECT_EQ(tree<float>(ids, {1e8f, 1.0f, -1e8f, 1.0f}, 0, 4, present), 0.0f);
  EXPECT_EQ(((1e8f + 1.0f) + -1e8f) + 1.0f, 1.0f);
}

TEST(OrderedSum, PassesNonFiniteValuesOn) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto a = device<float>({1.0f, infinity, infinity});
  const auto b = device<float>({std::nanf(""), 1.0f, -infinity});
  SumList list;
  append_sum(list, {{0, 0, 0}, {1, k_sum_received, 0}}, 0.5, 0, 3);
  const DeviceList<float> on_device(list, {{a.data()}});
  const Vector<float> out("out", 3);
  ordered_sum(Kokkos::DefaultExecutionSpace(), on_device.terms, on_device.pieces,
              SumBuffers<float, float>{out.data(), b.data(), on_device.peers.data()});
  Kokkos::fence();
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
  EXPECT_TRUE(std::isnan(host(0)));
  EXPECT_EQ(host(1), infinity);
  EXPECT_TRUE(std::isnan(host(2)));
}

TEST(OrderedSum, RefusesBadTerms) {
  SumList list;
  EXPECT_THROW(append_sum(list, {}, 1.0, 0, 3), ShapeError);
  EXPECT_THROW(append_sum(list, {{4, 0, 0}, {4, 1, 0}}, 1.0, 0, 3), ShapeError);
  EXPECT_THROW(append_sum(list, {{4, 0, 0}, {3, 1, 0}}, 1.0, 0, 3), ShapeError);
  EXPECT_THROW(append_sum(list, {{4, k_sum_own, 1}}, 1.0, 0, 3), ShapeError);
}

}  // namespace
}  // namespace sdp::kernels
