// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// A View whose extents do not fit the kernel that it was given to.
class ShapeError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// "(2,3,4)" for a View of that shape.
template <AnyView V>
std::string shape_string(V const& view) {
  std::ostringstream out;
  out << '(';
  for (int axis = 0; axis < static_cast<int>(V::rank); ++axis)
    out << (axis ? "," : "") << view.extent(axis);
  out << ')';
  return out.str();
}

/// Throws ShapeError "kernel: a (2,3) and b (2,4) do not have the same shape" when they differ.
template <AnyView A, AnyView B>
void require_same_shape(char const* kernel, char const* a_name, A const& a, char const* b_name,
                        B const& b) {
  static_assert(static_cast<int>(A::rank) == static_cast<int>(B::rank));
  for (int axis = 0; axis < static_cast<int>(A::rank); ++axis)
    if (a.extent(axis) != b.extent(axis))
      throw ShapeError(std::string(kernel) + ": " + a_name + " " + shape_string(a) + " and " +
                       b_name + " " + shape_string(b) + " do not have the same shape");
}

/// Throws ShapeError "kernel: x (2,3) must have extent 4 on axis 1" unless it has.
template <AnyView V>
void require_extent(char const* kernel, char const* name, V const& view, int axis,
                    index_t expected) {
  if (static_cast<index_t>(view.extent(axis)) != expected)
    throw ShapeError(std::string(kernel) + ": " + name + " " + shape_string(view) +
                     " must have extent " + std::to_string(expected) + " on axis " +
                     std::to_string(axis));
}

/// Throws ShapeError "kernel: message" unless the condition holds.
inline void require(bool condition, char const* kernel, std::string const& message) {
  if (!condition) throw ShapeError(std::string(kernel) + ": " + message);
}

}  // namespace sdp::kernels
