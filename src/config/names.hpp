// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "config/config.hpp"

namespace sdp {

namespace Details {
/// The words a deck uses for the values of an enumeration, in the order of its enumerators.
template <class E>
struct EnumNames {};

template <>
struct EnumNames<Precision> {
  static constexpr std::array<std::string_view, 3> names{"fp32", "bf16", "fp64"};
};
template <>
struct EnumNames<ModelKind> {
  static constexpr std::array<std::string_view, 2> names{"llama", "resnet18"};
};
template <>
struct EnumNames<Recompute> {
  static constexpr std::array<std::string_view, 2> names{"none", "block"};
};
template <>
struct EnumNames<DataKind> {
  static constexpr std::array<std::string_view, 4> names{"tokens", "cifar10", "cifar100", "idx"};
};
template <>
struct EnumNames<TokenFormat> {
  static constexpr std::array<std::string_view, 3> names{"auto", "llmc", "nanogpt-u16"};
};
template <>
struct EnumNames<Match> {
  static constexpr std::array<std::string_view, 2> names{"steps", "flops"};
};
template <>
struct EnumNames<OptimizerKind> {
  static constexpr std::array<std::string_view, 2> names{"adamw", "sgd"};
};
template <>
struct EnumNames<Decay> {
  static constexpr std::array<std::string_view, 2> names{"matrices", "all"};
};
template <>
struct EnumNames<Sharding> {
  static constexpr std::array<std::string_view, 2> names{"none", "holders"};
};
template <>
struct EnumNames<ScheduleKind> {
  static constexpr std::array<std::string_view, 4> names{"cosine", "wsd", "linear", "constant"};
};
template <>
struct EnumNames<Regime> {
  static constexpr std::array<std::string_view, 3> names{"none", "backward", "forward"};
};
template <>
struct EnumNames<Level> {
  static constexpr std::array<std::string_view, 2> names{"block", "neuron"};
};
template <>
struct EnumNames<Design> {
  static constexpr auto names = k_design_names;
};
template <>
struct EnumNames<Placement> {
  static constexpr auto names = k_placement_names;
};
template <>
struct EnumNames<BlockUnit> {
  static constexpr std::array<std::string_view, 2> names{"sublayer", "layer"};
};
template <>
struct EnumNames<ForwardScale> {
  static constexpr std::array<std::string_view, 3> names{"auto", "inverse_keep", "none"};
};
template <>
struct EnumNames<Transport> {
  static constexpr std::array<std::string_view, 3> names{"auto", "mpi", "nccl"};
};
template <>
struct EnumNames<Reduction> {
  static constexpr std::array<std::string_view, 2> names{"exchange", "allreduce"};
};
template <>
struct EnumNames<WireType> {
  static constexpr std::array<std::string_view, 2> names{"fp32", "bf16"};
};
template <>
struct EnumNames<Toggle> {
  static constexpr std::array<std::string_view, 3> names{"auto", "on", "off"};
};
}  // namespace Details

/// An enumeration of the deck.
template <class E>
concept DeckEnum = requires {
  Details::EnumNames<E>::names;
};

/// The word of the deck for a value: to_string(Regime::forward) is "forward".
template <DeckEnum E>
std::string to_string(E value) {
  return std::string(Details::EnumNames<E>::names.at(static_cast<std::size_t>(value)));
}

}  // namespace sdp
