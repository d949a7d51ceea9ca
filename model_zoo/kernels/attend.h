// Self-attention.
#pragma once

#include <cmath>

#include "problem.h"

namespace paddle2torch {

// Self-attention over the steps of sequences: `qkv` (sequences, steps, 3, heads, width) to (sequences, steps, heads,
// width).
template <class Stored>
void attend(const Stored* qkv, int64_t sequences, int64_t steps, int64_t heads, int64_t width, float scale,
            Stored* to) {
  const int64_t row = heads * width, padded = rounded_up(steps, LANES), wide = rounded_up(width, LANES);
  const int64_t floats = width * padded + steps * wide + 2 * padded + 2 * wide;
  for_tiles(sequences, heads, 1, sequences * heads * steps * steps * width < 50000,
            [&](int64_t n, int64_t head, int64_t) {
    auto* keys = reinterpret_cast<float*>(scratch(floats * sizeof(float)));  // (width, steps)
    float* values = keys + width * padded;                                   // (steps, width)
    float* weights = values + steps * wide;
    float* none = weights + padded;  // minus infinity where there is no step
    float* query = none + padded;
    float* sums = query + wide;
    const Stored* from = qkv + n * steps * 3 * row + head * width;
    std::fill(keys, keys + floats, 0.0f);
    std::fill(none + steps, none + padded, -INFINITY);
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t i = 0; i < width; ++i) {
        keys[i * padded + t] = load<1>(from + (3 * t + 1) * row + i)[0];
        values[t * wide + i] = load<1>(from + (3 * t + 2) * row + i)[0];
      }
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t i = 0; i < width; ++i) query[i] = load<1>(from + 3 * t * row + i)[0] * scale;
      Floats<LANES> most = Floats<LANES>{} - INFINITY, total = {};
      for (int64_t other = 0; other < padded; other += LANES) {
        Floats<LANES> score = load<LANES>(none + other);
        for (int64_t i = 0; i < width; ++i) score += load<LANES>(keys + i * padded + other) * query[i];
        store<LANES>(weights + other, score);
        most = score > most ? score : most;
      }
      float largest = most[0];
      for (int i = 1; i < LANES; ++i) largest = std::max(largest, most[i]);
      for (int64_t other = 0; other < padded; other += LANES) {
        const Floats<LANES> weight = exponential<LANES>(load<LANES>(weights + other) - largest);
        store<LANES>(weights + other, weight);
        total += weight;
      }
      float divisor = total[0];
      for (int i = 1; i < LANES; ++i) divisor += total[i];
      for (int64_t i = 0; i < wide; i += LANES) {
        Floats<LANES> sum = {};
        for (int64_t other = 0; other < steps; ++other) sum += load<LANES>(values + other * wide + i) * weights[other];
        store<LANES>(sums + i, sum / divisor);
      }
      Stored* result = to + (n * steps + t) * row + head * width;
      for (int64_t i = 0; i < width; ++i) store<1>(result + i, load<1>(sums + i));
    }
  });
}

}  // namespace paddle2torch
