// SPDX-License-Identifier: Apache-2.0
#include "base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace sdp::log {

namespace {
spdlog::logger& logger() {
  static std::shared_ptr<spdlog::logger> instance = [] {
    auto made =
        std::make_shared<spdlog::logger>("sdp", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("sdp: %v");
    return made;
  }();
  return *instance;
}
}  // namespace

void initialize(int rank) {
  logger().set_level(rank == 0 ? spdlog::level::info : spdlog::level::err);
}
void debug(std::string const& message) {
  logger().debug(message);
}
void info(std::string const& message) {
  logger().info(message);
}
void warning(std::string const& message) {
  logger().warn("warning: {}", message);
}
void error(std::string const& message) {
  logger().error("error: {}", message);
}

}  // namespace sdp::log
