// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace sdp::log {

/// Sets up the terminal log: level info and above on standard error for rank 0, errors only
/// elsewhere. Results that a user asked for go to standard output instead, never through the log.
void initialize(int rank);

void debug(std::string const& message);
void info(std::string const& message);
void warning(std::string const& message);
/// Prefixed with the rank when there is more than one rank to confuse it with.
void error(std::string const& message);

}  // namespace sdp::log
