// SPDX-License-Identifier: Apache-2.0
// Convolutions and batch norms of one training step of the CIFAR ResNet-18 at width 64: best time
// of each and GFLOP/s as if every product of the definition were formed, then the sum over the step
// for the dense model and for a worker that has a part of the inner channels of every block.
//
//   benchmark_convolution [images = 64] [repeats = 15] [inner fraction = 0.5]
#include <Kokkos_Core.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "kernels/nn/batch_norm_backward.hpp"
#include "kernels/nn/convolution.hpp"

namespace {

using namespace sdp::kernels;
using Exec = Kokkos::DefaultExecutionSpace;
using Images = Kokkos::View<float****, Kokkos::LayoutRight>;
using Matrix = Kokkos::View<float**, Kokkos::LayoutRight>;
using Vector = Kokkos::View<float*>;

/// Which of a layer's channels are inside of a block.
enum class Inner { none, outputs, inputs };

struct Layer {
  char const* name;
  int count;
  index_t inputs, outputs, size;
  int kernel, stride;
  Inner inner;
};

constexpr Layer k_layers[] = {{"stem", 1, 3, 64, 32, 3, 1, Inner::none},
                              {"layer1 conv1", 2, 64, 64, 32, 3, 1, Inner::outputs},
                              {"layer1 conv2", 2, 64, 64, 32, 3, 1, Inner::inputs},
                              {"layer2.0 conv1", 1, 64, 128, 32, 3, 2, Inner::outputs},
                              {"layer2.1 conv1", 1, 128, 128, 16, 3, 1, Inner::outputs},
                              {"layer2 conv2", 2, 128, 128, 16, 3, 1, Inner::inputs},
                              {"layer2 shortcut", 1, 64, 128, 32, 1, 2, Inner::none},
                              {"layer3.0 conv1", 1, 128, 256, 16, 3, 2, Inner::outputs},
                              {"layer3.1 conv1", 1, 256, 256, 8, 3, 1, Inner::outputs},
                              {"layer3 conv2", 2, 256, 256, 8, 3, 1, Inner::inputs},
                              {"layer3 shortcut", 1, 128, 256, 16, 1, 2, Inner::none},
                              {"layer4.0 conv1", 1, 256, 512, 8, 3, 2, Inner::outputs},
                              {"layer4.1 conv1", 1, 512, 512, 4, 3, 1, Inner::outputs},
                              {"layer4 conv2", 2, 512, 512, 4, 3, 1, Inner::inputs},
                              {"layer4 shortcut", 1, 256, 512, 8, 1, 2, Inner::none}};

template <class V>
void fill_with_noise(V const& view) {
  auto host = Kokkos::create_mirror_view(view);
  unsigned state = 12345;
  for (std::size_t i = 0; i < host.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    host.data()[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  Kokkos::deep_copy(view, host);
}

/// Operands of one layer and the five passes over them.
class LayerRun {
 public:
  static constexpr int k_passes = 5;

  LayerRun(Layer const& layer, index_t images, double fraction)
      : m_shape{images,
                layer.size,
                layer.size,
                held(layer, Inner::inputs, fraction),
                held(layer, Inner::outputs, fraction),
                layer.kernel,
                layer.stride},
        m_layout(layer.inner == Inner::inputs ? WeightLayout::in_out : WeightLayout::out_in),
        m_first(layer.kernel == 3 && layer.inputs == 3) {
    auto const& s = m_shape;
    const bool out_in = m_layout == WeightLayout::out_in;
    const index_t leading = out_in ? s.outputs : s.inputs, second = out_in ? s.inputs : s.outputs;
    m_x = Images("x", images, s.height, s.width, s.inputs);
    m_d_x = Images("d_x", images, s.height, s.width, s.inputs);
    m_out = Images("out", images, s.out_height(), s.out_width(), s.outputs);
    m_d_out = Images("d_out", images, s.out_height(), s.out_width(), s.outputs);
    m_weight = Images("weight", leading, second, s.kernel, s.kernel);
    m_d_weight = Images("d_weight", leading, second, s.kernel, s.kernel);
    m_workspace = Vector("workspace", convolution_workspace_size<Exec, float>(s));
    m_partials = Matrix("partials", batch_norm_chunks(s.out_pixels()), 2 * s.outputs);
    m_sums = Matrix("sums", 2, s.outputs);
    m_channels = Matrix("channels", 8, s.outputs);
    for (auto const& view : {m_x, m_d_out, m_weight}) fill_with_noise(view);
    fill_with_noise(m_channels);
  }

  double mflop() const {
    return 2e-6 * static_cast<double>(m_shape.out_pixels() * m_shape.taps() * m_shape.inputs *
                                      m_shape.outputs);
  }
  /// The stem needs no gradient with respect to its input.
  bool runs(int pass) const { return !(m_first && pass == 1); }

  void run(int pass) const {
    const Exec exec;
    const int stride = m_shape.stride;
    const auto channel = [&](int row) { return Kokkos::subview(m_channels, row, Kokkos::ALL()); };
    const auto rows = pixel_rows(m_out), d_rows = pixel_rows(m_d_out);
    switch (pass) {
      case 0:
        return convolution_forward(exec, m_layout, stride, m_x, m_weight, m_workspace, m_out);
      case 1:
        return convolution_backward_input(exec, m_layout, stride, m_d_out, m_weight, m_workspace,
                                          m_d_x);
      case 2:
        return convolution_backward_weight(exec, m_layout, stride, m_x, m_d_out, m_workspace,
                                           m_d_weight);
      case 3:
        batch_norm_statistics(exec, rows, 1e-5, 0.1, m_partials, channel(0), channel(1), channel(2),
                              channel(3));
        return batch_norm_forward(exec, Activation::relu, rows, channel(0), channel(1), channel(4),
                                  channel(5), d_rows);
      default:
        return batch_norm_backward(exec, Activation::relu, d_rows, rows, rows, channel(0),
                                   channel(1), channel(4), AllChannels{}, m_partials, m_sums,
                                   d_rows, channel(6), channel(7));
    }
  }

 private:
  static index_t held(Layer const& layer, Inner side, double fraction) {
    const index_t all = side == Inner::inputs ? layer.inputs : layer.outputs;
    return layer.inner == side ? std::lround(fraction * static_cast<double>(all)) : all;
  }

  ConvolutionShape m_shape;
  WeightLayout m_layout;
  bool m_first;
  Images m_x, m_d_x, m_out, m_d_out, m_weight, m_d_weight;
  Vector m_workspace;
  Matrix m_partials, m_sums, m_channels;
};

double milliseconds(LayerRun const& layer, int pass) {
  Exec().fence();
  const Kokkos::Timer timer;
  layer.run(pass);
  Exec().fence();
  return 1e3 * timer.seconds();
}

void run(index_t images, int repeats, double fraction) {
  std::printf("best of %d, %d images; ms dense, ms at %g (GFLOP/s dense)\n", repeats,
              static_cast<int>(images), fraction);
  std::printf("%-16s %2s %8s %19s %19s %19s %11s %11s\n", "layer", "x", "MFLOP", "forward",
              "d_input", "d_weight", "norm", "d_norm");
  std::array<double, 2> total{}, flops{};
  for (auto const& layer : k_layers) {
    const LayerRun variants[] = {{layer, images, 1.0}, {layer, images, fraction}};
    std::printf("%-16s %2d %8.0f", layer.name, layer.count, variants[0].mflop());
    for (int pass = 0; pass < LayerRun::k_passes; ++pass) {
      if (!variants[0].runs(pass)) {
        std::printf(" %19s", "");
        continue;
      }
      std::array<double, 2> best{HUGE_VAL, HUGE_VAL};
      for (auto const& variant : variants) variant.run(pass);
      for (int i = 0; i < repeats; ++i)
        for (std::size_t v = 0; v < 2; ++v)
          best[v] = std::min(best[v], milliseconds(variants[v], pass));
      for (std::size_t v = 0; v < 2; ++v) {
        total[v] += layer.count * best[v];
        if (pass < 3) flops[v] += layer.count * variants[v].mflop();
      }
      if (pass < 3)
        std::printf(" %6.2f %6.2f (%3.0f)", best[0], best[1], variants[0].mflop() / best[0]);
      else
        std::printf(" %5.2f %5.2f", best[0], best[1]);
    }
    std::printf("\n");
  }
  std::printf("step %.1f ms, %.0f GFLOP; inner channels * %g: %.1f ms = %.3f, FLOP share %.3f\n",
              total[0], flops[0] / 1e3, fraction, total[1], total[1] / total[0],
              flops[1] / flops[0]);
}

}  // namespace

int main(int argc, char** argv) {
  Kokkos::initialize(argc, argv);
  run(argc > 1 ? std::atoi(argv[1]) : 64, argc > 2 ? std::atoi(argv[2]) : 15,
      argc > 3 ? std::atof(argv[3]) : 0.5);
  Kokkos::finalize();
  return 0;
}
