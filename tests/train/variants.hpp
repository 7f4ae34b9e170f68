// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

namespace sdp::test {

/// Settings of a deck, as on the command line.
using Overrides = std::vector<std::string>;

inline Overrides operator+(Overrides a, Overrides const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// One of the four ways to train subnetworks. Replicas are compared after every update.
struct Variant {
  char const* regime;
  char const* level;
  int neuron_group = 4;

  bool is_forward() const { return regime == std::string("forward"); }
  std::string name() const { return std::string(regime) + level; }
  Overrides overrides() const {
    return {std::string("sdp.regime=") + regime, std::string("sdp.level=") + level,
            "sdp.neuron_group=" + std::to_string(neuron_group), "sdp.hash_every=1"};
  }
};

/// How GoogleTest prints it.
inline void PrintTo(Variant const& variant, std::ostream* out) {
  *out << variant.regime << ' ' << variant.level;
}

constexpr std::array<Variant, 4> variants(int neuron_group) {
  return {{{"forward", "block", neuron_group},
           {"forward", "neuron", neuron_group},
           {"backward", "block", neuron_group},
           {"backward", "neuron", neuron_group}}};
}

/// As many subnetworks as ranks, each with half of the units; one rank keeps everything.
inline Overrides half_of_the_units(int ranks) {
  return {"sdp.subnetworks=" + std::to_string(ranks),
          ranks == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5"};
}

/// ||a-b|| / ||b||.
inline double relative_difference(std::vector<double> const& a, std::vector<double> const& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace sdp::test
