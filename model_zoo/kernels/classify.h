// The last layer of a recogniser: a linear layer to the classes, and softmax over them.
//
// Classes are made block by block. Each block goes into the largest value and the sum of each step while it is in the
// cache, so that thousands of classes are neither written nor read again where the best one is all that is wanted.
#pragma once

#include <cmath>

#include "convolve.h"

namespace paddle2torch {

// Panels of classes that are made at a time, and steps: both blocks stay in the cache.
constexpr int64_t PANELS_TOGETHER = 4, STEPS_TOGETHER = 240;

// What has been seen of the classes of a step.
struct Seen {
  float largest = -INFINITY;
  int64_t place = 0;  // of the first that is as large
  double sum = 0;     // of e to the power of each value less the largest

  // Values `first` to `first + count`, behind which there is room for a vector. NaN ends up in the sum.
  void see(float* values, int64_t first, int64_t count) {
    const int64_t padded = rounded_up(count, LANES);
    std::fill(values + count, values + padded, -INFINITY);
    Floats<LANES> most = Floats<LANES>{} - INFINITY, total = {};
    for (int64_t at = 0; at < padded; at += LANES) {
      const Floats<LANES> some = load<LANES>(values + at);
      most = some > most ? some : most;
    }
    float top = most[0];
    for (int i = 1; i < LANES; ++i) top = std::max(top, most[i]);
    if (top > largest) {
      sum *= std::exp(static_cast<double>(largest) - top);
      largest = top;
      place = first + (std::find(values, values + count, top) - values);
    }
    for (int64_t at = 0; at < padded; at += LANES) total += exponential<LANES>(load<LANES>(values + at) - largest);
    for (int i = 0; i < LANES; ++i) sum += total[i];
  }

  // All values of the step to probabilities.
  void normalise(float* values, int64_t count) const {
    const float factor = static_cast<float>(1 / sum);
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
      store<LANES>(values + at, exponential<LANES>(load<LANES>(values + at) - largest) * factor);
    for (; at < count; ++at) values[at] = exponential<1>(load<1>(values + at) - largest)[0] * factor;
  }
};

// `count` values as float32: where they are, or copied to `spare`. They are in half vectors.
inline float* as_floats(float* values, int64_t, float*) { return values; }
inline float* as_floats(const BFloat16* values, int64_t count, float* spare) {
  for (int64_t at = 0; at < count; at += HALF) store<HALF>(spare + at, load<HALF>(values + at));
  return spare;
}

// To rows of `results` values: the best class and its probability where `results` is 2, else all probabilities.
template <class P>
void classify(const Problem& p, int64_t results, float* to) {
  using Stored = typename P::Stored;
  const Panels panels(p.outputs);
  const int64_t steps = p.width, block = PANELS_TOGETHER * 3 * LANES;
  const int64_t parts = std::max<int64_t>(threads(), (steps + STEPS_TOGETHER - 1) / STEPS_TOGETHER);
  const int64_t tile = rounded_up((steps + parts - 1) / parts, ROWS_TOGETHER);
  const Workplace<P> plan(p, tile);
  const int64_t stored_bytes = rounded_up(tile * block * sizeof(Stored), 64);
  const int64_t seen_bytes = rounded_up(tile * sizeof(Seen), 64);
  const bool small = steps * groups_of<P>(p) * p.outputs < 50000;
  for_tiles(1, steps, tile, small, [&](int64_t, int64_t first, int64_t last) {
    char* memory = scratch(plan.bytes + stored_bytes + seen_bytes + block * sizeof(float));
    Workplace<P> at = plan;
    at.settle(memory);
    auto* made = reinterpret_cast<Stored*>(memory + plan.bytes);
    auto* seen = reinterpret_cast<Seen*>(memory + plan.bytes + stored_bytes);
    auto* spare = reinterpret_cast<float*>(memory + plan.bytes + stored_bytes + seen_bytes);
    const int64_t count = last - first;
    std::fill(seen, seen + count, Seen{});
    const auto* x = static_cast<const Stored*>(p.x) + first * p.channels;
    const Rows<P> rows = rows_of_pixels(p, nullptr, x, count, at);
    const auto* weights = static_cast<const typename P::Weight*>(p.weight);
    for (int64_t panel = 0, output = 0; panel < panels.count;) {
      const int64_t begin = output;
      for (int64_t i = 0; i < PANELS_TOGETHER && panel < panels.count; ++i, ++panel) {
        const int halves = panels.halves_of(panel);
        multiply_panel(p, rows, count, halves, weights, output, at, made + output - begin, block);
        weights += halves * HALF * rows.groups * P::GROUP;
        output += halves * HALF;
      }
      const int64_t found = std::min(output, p.outputs) - begin;
      for (int64_t i = 0; i < count; ++i) {
        float* values = as_floats(made + i * block, found, spare);
        seen[i].see(values, begin, found);
        if (results == p.outputs) std::memcpy(to + (first + i) * results + begin, values, found * sizeof(float));
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      float* result = to + (first + i) * results;
      if (results == p.outputs) {
        seen[i].normalise(result, results);
      } else {
        result[0] = static_cast<float>(seen[i].place);
        result[1] = static_cast<float>(1 / seen[i].sum);
      }
    }
  });
}

}  // namespace paddle2torch
