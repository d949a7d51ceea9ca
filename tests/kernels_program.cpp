// The kernels without PyTorch, as a program for any processor that a compiler makes code for: what they give beside
// plain loops in double. It prints the number of lanes, whether there are kernels for bfloat16 and int8, and the worst
// error.

#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "attend.h"
#include "classify.h"
#include "maps.h"
#include "strips.h"

using namespace paddle2torch;
using Values = std::vector<float>;

static std::mt19937 chance(1);

static Values values(int64_t count, float size = 1.0f) {
  std::normal_distribution<float> normal(0.0f, size);
  Values some(count);
  for (float& value : some) value = normal(chance);
  return some;
}

static double activated(double y, Activation activation) {
  switch (activation) {
    case Activation::none:
      return y;
    case Activation::relu:
      return std::max(y, 0.0);
    case Activation::hardswish:
      return y * std::min(std::max(y + 3, 0.0), 6.0) / 6;
    case Activation::swish:
      return y / (1 + std::exp(-y));
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-y));
    case Activation::gelu:
      return y * 0.5 * (1 + std::erf(y / std::sqrt(2.0)));
  }
  return y;
}

static double finished(double y, const Tail& tail) { return activated(y, tail.activation) * tail.scale + tail.shift; }

// The largest difference by the largest value.
static double error(const Values& found, const std::vector<double>& expected) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, found[i] == found[i] ? std::abs(found[i] - expected[i]) : INFINITY);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

// A convolution with its values; `separable` with a depthwise one before it, of the same kernel.
struct Case {
  Problem p{};
  Values x, weight, packed, bias, depth, depth_bias, out;

  Case(int64_t height, int64_t width, int64_t inputs, int64_t outputs, Geometry geometry, Tail tail, bool separable,
       const Values* before = nullptr) {
    p.images = 2, p.height = height, p.width = width, p.channels = inputs, p.outputs = outputs;
    p.geometry = geometry, p.tail = tail;
    const int64_t kernel = geometry.kernel_height * geometry.kernel_width,
                  depth_of = separable ? inputs : kernel * inputs;
    x = before ? *before : values(p.images * height * width * inputs);
    weight = values(outputs * depth_of, 1 / std::sqrt(static_cast<float>(depth_of)));
    bias = values(Panels(outputs).outputs_padded());
    if (separable) {
      depth = values(kernel * inputs, 1 / std::sqrt(static_cast<float>(kernel))), depth_bias = values(inputs);
      p.depth_weight = depth.data(), p.depth_bias = depth_bias.data();
      p.depth_tail = Tail(Activation::hardswish, 1.1f, 0.05f);
    }
    packed.resize(Panels(outputs).size(depth_of, 1));
    pack(weight.data(), outputs, depth_of, depth_of, 1, packed.data(), [](float value) { return value; });
    out.resize(p.images * geometry.height(height) * geometry.width(width) * outputs);
    p.x = x.data(), p.weight = packed.data(), p.bias = bias.data(), p.out = out.data();
  }

  // What is under the kernel at a result: its value of channel `c` there, or 0 beyond the map.
  double at(const std::vector<double>& map, int64_t image, int64_t y, int64_t to_x, int64_t c) const {
    if (y < 0 || to_x < 0 || y >= p.height || to_x >= p.width) return 0;
    return map[((image * p.height + y) * p.width + to_x) * p.channels + c];
  }

  std::vector<double> expected(const std::vector<double>& map) const {
    const Geometry& g = p.geometry;
    const int64_t height = g.height(p.height), width = g.width(p.width), kernel = g.kernel_height * g.kernel_width;
    std::vector<double> results, row(p.depth_weight ? p.channels : kernel * p.channels);
    for (int64_t n = 0; n < p.images; ++n)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t to_x = 0; to_x < width; ++to_x) {
          for (int64_t c = 0; c < p.channels; ++c) {
            double sum = p.depth_weight ? depth_bias[c] : 0;
            for (int64_t k = 0; k < kernel; ++k) {
              const double value = at(map, n, y * g.stride_height - g.padding_height + k / g.kernel_width,
                                      to_x * g.stride_width - g.padding_width + k % g.kernel_width, c);
              if (p.depth_weight)
                sum += value * depth[k * p.channels + c];
              else
                row[k * p.channels + c] = value;
            }
            if (p.depth_weight) row[c] = finished(sum, p.depth_tail);
          }
          for (int64_t o = 0; o < p.outputs; ++o) {
            double sum = bias[o];
            for (size_t i = 0; i < row.size(); ++i) sum += row[i] * weight[o * row.size() + i];
            results.push_back(finished(sum, p.tail));
          }
        }
    return results;
  }

  double error_alone() {
    convolve<Float32>(p);
    return error(out, expected({x.begin(), x.end()}));
  }
};

static double of_convolutions() {
  double worst = 0;
  for (const int number : {0, 1, 2, 3, 4, 5}) {
    const Tail tail(static_cast<Activation>(number), number % 2 ? -0.7f : 1.0f, number % 2 ? 0.3f : 0.0f);
    const int64_t outputs[] = {7, 24, 33, 40, 97, 240};
    worst = std::max(worst, Case(9, 13, 24 + 3 * number, outputs[number], Geometry(), tail, false).error_alone());
    worst = std::max(worst, Case(9, 13, 16, outputs[number], {3, 3, 1, 2, 1, 1}, tail, false).error_alone());
    worst = std::max(worst, Case(9, 21, 24, outputs[number], {5, 5, 2, 1, 2, 2}, tail, true).error_alone());
    worst = std::max(worst, Case(9, 21, 40, outputs[number], {9, 9, 1, 1, 4, 4}, tail, true).error_alone());
  }
  return worst;
}

// Two separable convolutions after a plain one, strip by strip.
static double of_strips() {
  const Tail tail(Activation::relu, 1.0f, 0.0f);
  Case first(30, 700, 16, 24, {3, 3, 1, 1, 1, 1}, tail, false);
  Case second(30, 700, 24, 40, {3, 3, 2, 2, 1, 1}, tail, true, &first.out);
  Case third(15, 350, 40, 17, {3, 3, 1, 1, 1, 1}, tail, true, &second.out);
  convolve_all<Float32>({first.p, second.p, third.p});
  const auto middle = second.expected(first.expected({first.x.begin(), first.x.end()}));
  return error(third.out, third.expected(middle));
}

static double of_classes() {
  double worst = 0;
  for (const int64_t classes : {97, 6625}) {
    Case c(1, 43, 40, classes, Geometry(), Tail(), false);
    const int64_t steps = c.p.images * c.p.width;
    c.p.width = steps, c.p.images = 1;
    std::vector<double> logits = c.expected({c.x.begin(), c.x.end()});
    Values best(steps * 2), all(steps * classes);
    classify<Float32>(c.p, 2, best.data());
    classify<Float32>(c.p, classes, all.data());
    for (int64_t i = 0; i < steps; ++i) {
      double* of_step = logits.data() + i * classes;
      const auto most = std::max_element(of_step, of_step + classes);
      if (best[2 * i] != most - of_step) return INFINITY;
      const double largest = *most;
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(of_step[k] - largest);
      for (int64_t k = 0; k < classes; ++k) of_step[k] = std::exp(of_step[k] - largest) / sum;
      worst = std::max(worst, std::abs(best[2 * i + 1] - 1 / sum));
    }
    worst = std::max(worst, error(all, logits));
  }
  return worst;
}

static double of_attention() {
  const int64_t steps = 19, heads = 3, width = 5, row = heads * width;
  const Values qkv = values(2 * steps * 3 * row);
  Values found(2 * steps * row);
  attend(qkv.data(), 2, steps, heads, width, 0.4f, found.data());
  std::vector<double> expected;
  for (int64_t n = 0; n < 2; ++n)
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t i = 0; i < row; ++i) {
        const auto of = [&](int64_t step, int64_t which, int64_t channel) -> double {
          return qkv[((n * steps + step) * 3 + which) * row + channel];
        };
        double total = 0, sum = 0;
        for (int64_t other = 0; other < steps; ++other) {
          double score = 0;
          for (int64_t k = 0; k < width; ++k)
            score += of(t, 0, i / width * width + k) * of(other, 1, i / width * width + k);
          total += std::exp(score * 0.4f);
          sum += std::exp(score * 0.4f) * of(other, 2, i);
        }
        expected.push_back(sum / total);
      }
  return error(found, expected);
}

static double of_maps() {
  Case c(5, 7, 21, 21 + 9, Geometry(), Tail(), false);
  Values means(2 * 21);
  mean<float>(c.p, means.data());
  std::vector<double> expected(2 * 21), joined;
  for (int64_t i = 0; i < 2 * 35 * 21; ++i) expected[i / (35 * 21) * 21 + i % 21] += c.x[i] / 35.0;
  const double worst = error(means, expected);
  const Values y = values(2 * 35 * 9);
  join_pooled<float>(c.p, y.data());
  for (int64_t at = 0; at < 70; ++at) {
    for (int64_t k = 0; k < 21; ++k) {
      double most = -INFINITY;
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t row = at / 7 % 5 + i / 2, column = at % 7 + i % 2;
        most = std::max(most, row < 5 && column < 7 ? c.x[((at / 35 * 5 + row) * 7 + column) * 21 + k] : 0.0);
      }
      joined.push_back(most);
    }
    for (int64_t k = 0; k < 9; ++k) joined.push_back(y[at * 9 + k]);
  }
  const Values squares = values(2 * 3 * 16);
  Values pixels(2 * 3 * 16);
  spread(squares.data(), 1, 2, 3, 4, pixels.data());
  std::vector<double> places(pixels.size());
  for (int64_t i = 0; i < 96; ++i) places[(i / 48 * 4 + i % 16 / 4) * 12 + i / 16 % 3 * 4 + i % 4] = squares[i];
  return std::max({worst, error(c.out, joined), error(pixels, places)});
}

int main() {
#if defined(PADDLE2TORCH_BFLOAT16)
  const int bfloat16 = 1;
#else
  const int bfloat16 = 0;
#endif
#if defined(PADDLE2TORCH_INT8)
  const int int8 = 1;
#else
  const int int8 = 0;
#endif
  const double worst = std::max({of_convolutions(), of_strips(), of_classes(), of_attention(), of_maps()});
  std::printf("%d %d %d %.2e\n", LANES, bfloat16, int8, worst);
}
