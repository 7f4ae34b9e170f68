// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace sdp {

/// Exit codes of the `sdp` command; part of the contract with users.
enum class ExitCode : int {
  ok = 0,
  usage = 2,          ///< bad usage, deck, input header, size or glob; nothing was written
  data = 3,           ///< fault found while reading or writing
  non_finite = 4,     ///< training gave up on non-finite losses or gradients
  communication = 5,  ///< communication failure or watchdog
  stopped = 75,       ///< stopped on a signal or wall-time after saving; resubmit
};

/// An error that ends the job with a known exit code. The text is one sentence that names the file,
/// key or tensor, what was found and what was expected.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, std::string const& what) : std::runtime_error(what), m_code(code) {}
  ExitCode code() const { return m_code; }

  /// Whether every rank throws this same error, so that one of them speaks for all and no rank is
  /// left waiting. An error that only some ranks know of must end the others by force.
  bool agreed() const { return m_agreed; }
  void set_agreed() { m_agreed = true; }

 private:
  ExitCode m_code;
  bool m_agreed = false;
};

/// Bad usage, deck, input header, size or glob, found before anything is written (exit code 2).
struct ConfigError : Error {
  explicit ConfigError(std::string const& what) : Error(ExitCode::usage, what) {}
};
/// A fault found while reading or writing; names file and offset (exit code 3).
struct DataError : Error {
  explicit DataError(std::string const& what) : Error(ExitCode::data, what) {}
};
/// Too many non-finite updates in a row (exit code 4).
struct NonFiniteError : Error {
  explicit NonFiniteError(std::string const& what) : Error(ExitCode::non_finite, what) {}
};
/// A failed or stuck exchange (exit code 5).
struct CommunicationError : Error {
  explicit CommunicationError(std::string const& what) : Error(ExitCode::communication, what) {}
};

/// An error that every rank finds by itself in what all of them know: throw on_all_ranks(error).
template <class E>
E on_all_ranks(E error) {
  error.set_agreed();
  return error;
}

}  // namespace sdp
