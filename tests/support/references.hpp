// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "checkpoint/safetensors.hpp"
#include "config/config.hpp"

namespace sdp::test {

/// One recorded PyTorch reference: tests/references/data/<name>.{json,safetensors}.
class Reference {
 public:
  explicit Reference(std::string const& name);

  LlamaConfig const& config() const { return m_config; }
  OptimizerConfig const& optimizer() const { return m_optimizer; }
  ScheduleConfig const& schedule() const { return m_schedule; }
  index_t steps() const { return m_steps; }

  bool has(std::string const& tensor) const { return m_reader.find(tensor) != nullptr; }
  std::vector<index_t> shape(std::string const& tensor) const;
  /// All elements in file order.
  std::vector<double> values(std::string const& tensor) const;
  std::vector<std::int32_t> integers(std::string const& tensor) const;
  /// The tensor `<prefix>.<spec.name>` in storage order (turned where spec is transposed).
  std::vector<double> stored(std::string const& prefix, TensorSpec const& spec) const;

  /// Fills the flat buffer of a dense table from `<prefix>.<name>`.
  template <class V>
  void load(std::string const& prefix, ParameterTable const& table, View1<V> const& flat) const {
    auto host = Kokkos::create_mirror_view(flat);
    for (std::size_t t = 0; t < table.tensors().size(); ++t) {
      const std::vector<double> elements = stored(prefix, table.tensors()[t]);
      for (std::size_t i = 0; i < elements.size(); ++i)
        host(table.offset(static_cast<int>(t)) + static_cast<index_t>(i)) =
            static_cast<V>(elements[i]);
    }
    Kokkos::deep_copy(flat, host);
  }

 private:
  SafetensorsReader m_reader;
  LlamaConfig m_config;
  OptimizerConfig m_optimizer;
  ScheduleConfig m_schedule;
  index_t m_steps = 0;
};

/// ||a - b|| / ||b||; the norm of a itself where b is zero.
double relative_error(std::vector<double> const& a, std::vector<double> const& b);

}  // namespace sdp::test
