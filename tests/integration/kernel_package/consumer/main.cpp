// SPDX-License-Identifier: Apache-2.0
// One kernel of its own and one that needs the BLAS, from the installed package alone.
#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdio>

#include "kernels/nn/linear.hpp"
#include "kernels/nn/rms_norm.hpp"

namespace {

/// out = rms_norm(1, 2, 3, 4) * W^T with W all ones.
double normalised_sum() {
  using Matrix = Kokkos::View<double**, Kokkos::LayoutRight>;
  const Kokkos::DefaultExecutionSpace exec;
  const Matrix x("x", 1, 4), normal("normal", 1, 4), weight("weight", 1, 4), out("out", 1, 1);
  const Kokkos::View<double*> scale("scale", 4), rstd("rstd", 1);
  auto host = Kokkos::create_mirror_view(x);
  for (int j = 0; j < 4; ++j) host(0, j) = j + 1.0;
  Kokkos::deep_copy(x, host);
  Kokkos::deep_copy(scale, 1.0);
  Kokkos::deep_copy(weight, 1.0);
  sdp::kernels::rms_norm_forward(exec, x, scale, 0.0, normal, rstd);
  sdp::kernels::linear_forward(exec, sdp::kernels::WeightLayout::out_in, normal, weight, out);
  exec.fence();
  auto result = Kokkos::create_mirror_view(out);
  Kokkos::deep_copy(result, out);
  return result(0, 0);
}

}  // namespace

int main(int argc, char** argv) {
  Kokkos::initialize(argc, argv);
  const double value = normalised_sum();
  Kokkos::finalize();
  const double expected = 10.0 / std::sqrt(7.5);
  std::printf("normalised sum %.15f, expected %.15f\n", value, expected);
  return std::abs(value - expected) < 1e-12 ? 0 : 1;
}
