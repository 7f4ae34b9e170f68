// SPDX-License-Identifier: Apache-2.0
#include "comm/delivery.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>

#include "base/memory_ledger.hpp"
#include "comm/schedule.hpp"
#include "kernels/core/bf16.hpp"
#include "layouts.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

constexpr BufferLayout k_buffers[] = {BufferLayout::gradients, BufferLayout::weights,
                                      BufferLayout::packed};

/// A value that is different for every logical element, exact in every type but bf16.
double value_of(index_t logical) {
  return static_cast<double>(logical % 4099) - 17.0;
}

std::vector<IndexRange> buckets_of(ExchangeLayout const& layout, index_t bytes) {
  return make_buckets(layout.gradients[0], bytes, 4);
}

/// Element i of a buffer is the one at logical position positions[i], or nothing where -1.
using Positions = std::vector<index_t>;

/// Logical positions of the elements that `worker` owns, by their definition in its schedule: in
/// its buffer, -1 for the others.
Positions owned_positions(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                          int worker, BufferLayout buffer) {
  const auto t = static_cast<std::size_t>(layout.table_of_worker[static_cast<std::size_t>(worker)]);
  auto const& weights = layout.weights.empty() ? layout.gradients[t] : layout.weights[t];
  const auto logical = test::logical_positions(layout.gradients[t]);
  const auto schedule = make_schedule(layout, buckets, worker, GradientReturn::none);
  Positions positions;
  if (buffer == BufferLayout::gradients) positions.assign(logical.size(), -1);
  if (buffer == BufferLayout::weights)
    positions.assign(static_cast<std::size_t>(weights.size()), -1);
  for (OwnedRange const& range : schedule.owned)
    for (index_t i = 0; i < range.gradients.size(); ++i) {
      const index_t element = logical[static_cast<std::size_t>(range.gradients.begin + i)];
      if (buffer == BufferLayout::packed)
        positions.push_back(element);
      else if (buffer == BufferLayout::gradients)
        positions[static_cast<std::size_t>(range.gradients.begin + i)] = element;
      else
        positions[static_cast<std::size_t>(range.weight_begin + i)] = element;
    }
  return positions;
}

template <class T>
View1<T> filled(Positions const& positions) {
  const View1<T> view("buffer", positions.size());
  const auto host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < positions.size(); ++i)
    host(i) = positions[i] < 0 ? T(-1e6f) : T(static_cast<float>(value_of(positions[i])));
  Kokkos::deep_copy(view, host);
  return view;
}

/// The wanted elements have arrived, and no other was touched.
template <class T>
void check(View1<T> const& view, Positions const& positions) {
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  ASSERT_EQ(host.extent(0), positions.size());
  for (std::size_t i = 0; i < positions.size(); ++i)
    ASSERT_EQ(static_cast<double>(host(i)),
              static_cast<double>(positions[i] < 0 ? T(-777.0f)
                                                   : T(static_cast<float>(value_of(positions[i])))))
        << "element " << i;
}

template <class T>
View1<T> spoiled(std::size_t size) {
  const View1<T> view("buffer", size);
  Kokkos::deep_copy(view, T(-777.0f));
  return view;
}

template <class T>
void all_want_all(World const& world, ExchangeLayout const& layout, DeliveryOptions options) {
  const auto buckets = buckets_of(layout, 5000);
  const index_t size = layout.gradients[0].logical_size();
  Delivery<T> delivery(world, options);
  for (BufferLayout buffer : k_buffers) {
    const auto from = filled<T>(owned_positions(layout, buckets, world.worker(), buffer));
    const auto source = owned_source(layout, buckets, buffer);
    std::int64_t received = 0;
    for (IndexRange rows : {IndexRange{0, size}, {size / 3, size / 2}, {size / 2, size}, {7, 8}}) {
      const auto to = spoiled<T>(static_cast<std::size_t>(rows.size()));
      const auto plan =
          make_delivery_plan(source, whole_target(world.workers(), rows), world.worker());
      const auto before = test::pmpi_counts();
      delivery.run(plan, from, to);
      const auto after = test::pmpi_counts();
      Positions positions;
      for (index_t i = rows.begin; i < rows.end; ++i) positions.push_back(i);
      check(to, positions);
      received = delivery.statistics().received_bytes;
      EXPECT_EQ(world.sum(received),
                static_cast<std::int64_t>(sizeof(T)) * rows.size() * (world.workers() - 1));
      EXPECT_EQ(after.sent_bytes - before.sent_bytes, delivery.statistics().sent_bytes);
      EXPECT_EQ(after.received_bytes - before.received_bytes, received);
      EXPECT_EQ(after.sent_messages - before.sent_messages, delivery.statistics().messages_sent);
    }
  }
}

TEST(Delivery, AllWantAll) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.workers();
  for (bool full_weights : {false, true}) {
    all_want_all<float>(world, test::random_layout(n, 3, full_weights), {});
    all_want_all<double>(world, test::random_layout(n, 4, full_weights), {});
    all_want_all<kernels::bf16>(world, test::random_layout(n, 5, full_weights), {});
  }
  all_want_all<float>(world, dense_layout(test::awkward_table(), n), {});
}

TEST(Delivery, ShortMessagesAndNarrowWindows) {
  World world = World::from(MPI_COMM_WORLD);
  for (auto [window, bytes] : {std::pair{1, 3000}, {2, 411}, {5, 5000}}) {
    const auto layout =
        test::random_layout(world.workers(), static_cast<unsigned>(window), window == 2);
    all_want_all<float>(world, layout, {.message_bytes = bytes, .window = window});
  }
}

/// State moves from the owners of one layout to the tables, or the owners, of another.
template <class T>
void change_masks(World const& world, ExchangeLayout const& from, ExchangeLayout const& to) {
  const int w = world.worker();
  const auto old_buckets = buckets_of(from, 5000);
  const auto new_buckets = buckets_of(to, 1 << 30);
  auto const& tables = to.weights.empty() ? to.gradients : to.weights;
  const IndexRange everything{0, to.gradients[0].logical_size()};
  Delivery<T> delivery(world, {.message_bytes = 3000, .window = 3});
  for (BufferLayout buffer : k_buffers) {
    const auto source = owned_source(from, old_buckets, buffer);
    const auto held = filled<T>(owned_positions(from, old_buckets, w, buffer));
    const auto t = static_cast<std::size_t>(to.table_of_worker[static_cast<std::size_t>(w)]);
    const Positions wanted = test::logical_positions(tables[t]);
    const auto got = spoiled<T>(wanted.size());
    delivery.run(
        make_delivery_plan(source, table_target(tables, to.table_of_worker, everything), w), held,
        got);
    check(got, wanted);

    const IndexRange part{everything.end / 5, everything.end / 2};
    Positions inside = wanted;
    for (index_t& position : inside)
      if (position < part.begin || position >= part.end) position = -1;
    const auto some = spoiled<T>(wanted.size());
    delivery.run(make_delivery_plan(source, table_target(tables, to.table_of_worker, part), w),
                 held, some);
    check(some, inside);

    for (BufferLayout target : k_buffers) {
      const Positions owned = owned_positions(to, new_buckets, w, target);
      const auto state = spoiled<T>(owned.size());
      delivery.run(make_delivery_plan(source, owned_target(to, new_buckets, target), w), held,
                   state);
      check(state, owned);
    }
  }
}

TEST(Delivery, FromOneMaskToAnother) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.workers();
  for (bool full_weights : {false, true}) {
    change_masks<float>(world, test::random_layout(n, 1, full_weights),
                        test::random_layout(n, 50, !full_weights));
    change_masks<double>(world, test::random_layout(n, 9, full_weights),
                         dense_layout(test::awkward_table(), n));
  }
  change_masks<double>(world, dense_layout(test::awkward_table(), n),
                       test::masked_layout(n, std::min(n, 2), 1, true));
}

TEST(Delivery, PlansAreContiguousWhereLayoutsAre) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(ParameterTable({test::tensor("w", 64, 32)}), world.workers());
  const auto source = owned_source(layout, buckets_of(layout, 1 << 30), BufferLayout::gradients);
  const index_t size = layout.gradients[0].size();
  const auto plan =
      make_delivery_plan(source, whole_target(world.workers(), {0, size}), world.worker());
  EXPECT_EQ(plan.copies.size(), 1u);
  EXPECT_EQ(static_cast<int>(plan.receives.size()), world.workers() - 1);
  for (auto const& stream : plan.receives) EXPECT_EQ(stream.runs.size(), 1u);
  for (auto const& stream : plan.sends) EXPECT_EQ(stream.runs.size(), 1u);
}

TEST(Delivery, MemoryIsBounded) {
  World world = World::from(MPI_COMM_WORLD);
  memory_ledger::install();
  if (!memory_ledger::installed()) GTEST_SKIP() << "a profiling tool has taken the callbacks";
  // Rows of 4 KiB that go round the workers, so that every message must be packed.
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 200; ++i) tensors.push_back(test::tensor(test::numbered("w", i), 1, 1024));
  const auto layout = dense_layout(ParameterTable(tensors), world.workers());
  const auto buckets = buckets_of(layout, 4096);
  const auto source = owned_source(layout, buckets, BufferLayout::packed);
  const index_t size = layout.gradients[0].size();
  const auto plan =
      make_delivery_plan(source, whole_target(world.workers(), {0, size}), world.worker());
  const auto from =
      filled<float>(owned_positions(layout, buckets, world.worker(), BufferLayout::packed));
  const auto to = spoiled<float>(static_cast<std::size_t>(size));
  Delivery<float> delivery(world, {.message_bytes = 10000, .window = 2});
  memory_ledger::reset_peaks();
  const auto before = memory_ledger::usage(MemoryCategory::communication).current;
  delivery.run(plan, from, to);
  const auto peak = memory_ledger::usage(MemoryCategory::communication).peak - before;
  const std::int64_t descriptions =
      2 * 200 * 3 * static_cast<std::int64_t>(sizeof(kernels::CopySpan));
  EXPECT_LE(peak, 2 * 2 * 10000 + descriptions + 1024);
  EXPECT_EQ(peak > 2 * 10000, world.workers() > 1);
  Positions positions;
  for (index_t i = 0; i < size; ++i) positions.push_back(i);
  check(to, positions);
}

TEST(Delivery, SaysWhatItWaitsFor) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  const auto buckets = buckets_of(layout, 1 << 30);
  const index_t size = layout.gradients[0].size();
  const auto plan = make_delivery_plan(owned_source(layout, buckets, BufferLayout::packed),
                                       whole_target(world.workers(), {0, size}), world.worker());
  const auto from =
      filled<float>(owned_positions(layout, buckets, world.worker(), BufferLayout::packed));
  const auto to = spoiled<float>(static_cast<std::size_t>(size));
  Delivery<float> delivery(world, {.timeout_seconds = 0.2});
  EXPECT_EQ(delivery.describe(), "no delivery is under way");
  const int late = 0;
  if (world.rank() != late) {
    try {
      delivery.run(plan, from, to);
      ADD_FAILURE() << "no exception";
    } catch (CommunicationError const& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("a delivery has not moved for"));
      EXPECT_THAT(error.what(), ::testing::HasSubstr("elements of ranks 0"));
    }
  }
  world.barrier();
  if (world.rank() == late) delivery.run(plan, from, to);
  world.barrier();  // what the others have posted ends here
}

TEST(Delivery, RefusesWrongCalls) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.workers();
  const auto layout = dense_layout(test::awkward_table(), n);
  const index_t size = layout.gradients[0].size();
  const auto source = owned_source(layout, buckets_of(layout, 4096), BufferLayout::weights);
  auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (std::invalid_argument const& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message([&] {
                make_delivery_plan(source, whole_target(n + 1, {0, 5}), 0);
              }),
              ::testing::HasSubstr(std::to_string(n + 1) + " want some"));
  EXPECT_THAT(message([&] {
                make_delivery_plan(source, whole_target(n, {0, size + 3}), 0);
              }),
              ::testing::HasSubstr("nobody has 3 of the elements that worker 0 wants"));
  Delivery<float> delivery(world);
  const auto plan = make_delivery_plan(source, whole_target(n, {0, size}), world.worker());
  const View1<float> full("full", static_cast<std::size_t>(size));
  const View1<float> small("small", 3);
  EXPECT_THAT(message([&] { delivery.run(plan, small, full); }),
              ::testing::HasSubstr("the source has 3 elements"));
  EXPECT_THAT(message([&] { delivery.run(plan, full, small); }),
              ::testing::HasSubstr("the target has 3 elements"));
  auto other = plan;
  other.worker = n;
  EXPECT_THAT(message([&] { delivery.run(other, full, full); }),
              ::testing::HasSubstr("the plan is for worker"));
  EXPECT_THROW(Delivery<float>(world, {.window = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
