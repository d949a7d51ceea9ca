// Other operations on maps: means of their channels, channels spread to pixels, and a pooling joined to a second map.
#pragma once

#include <memory>

#include "problem.h"

namespace paddle2torch {

// The mean of each channel of each image, to float32 (images, channels).
template <class Stored>
void mean(const Problem& p, float* to) {
  const int64_t pixels = p.height * p.width, channels = p.channels, padded = rounded_up(channels, LANES);
  const int64_t part = std::max<int64_t>(64, 16384 / channels), parts = (pixels + part - 1) / part;
  // Each part has a sum of its own, so that the result does not depend on the number of threads.
  std::unique_ptr<float[]> sums(new float[p.images * parts * padded]());
  for_tiles(p.images, pixels, part, p.images * pixels * channels < 20000,
            [&](int64_t image, int64_t first, int64_t last) {
    const auto* x = static_cast<const Stored*>(p.x) + (image * pixels + first) * channels;
    float* sum = sums.get() + (image * parts + first / part) * padded;
    for (int64_t at = first; at < last; ++at, x += channels) {
      int64_t c = 0;
      for (; c + LANES <= channels; c += LANES) store<LANES>(sum + c, load<LANES>(sum + c) + load<LANES>(x + c));
      for (; c < channels; ++c) sum[c] += load<1>(x + c)[0];
    }
  });
  for (int64_t image = 0; image < p.images; ++image)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < parts; ++i) sum += sums[(image * parts + i) * padded + c];
      to[image * channels + c] = static_cast<float>(sum / pixels);
    }
}

// The larger of both; NaN where there is one.
template <int N>
inline Floats<N> larger(Floats<N> a, Floats<N> b) {
  return (a > b) | (a != a) ? a : b;
}

// `count` channels of the largest of four pixels, with zeros in place of those that are beyond the map's end.
template <int N, class Stored>
inline void pool(const Stored* x, int64_t across, int64_t down, int64_t count, Stored* to) {
  for (int64_t c = 0; c < count; c += N) {
    c = std::min(c, count - N);
    const auto value = [&](int64_t at) { return load<N>(x + at + c); };
    const Floats<N> none{}, above = larger<N>(value(0), across ? value(across) : none);
    store<N>(to + c, larger<N>(above, down ? larger<N>(value(down), across ? value(down + across) : none) : none));
  }
}

template <class Stored>
inline void pool_channels(const Stored* x, int64_t across, int64_t down, int64_t count, Stored* to) {
  if (count >= LANES) return pool<LANES>(x, across, down, count, to);
  if (count >= HALF) return pool<HALF>(x, across, down, count, to);
  return pool<1>(x, across, down, count, to);
}

// The largest values of 2x2 pixels of each channel of p.x, which begin at each pixel, then the channels of `y`.
template <class Stored>
void join_pooled(const Problem& p, const Stored* y) {
  const int64_t channels = p.channels, others = p.outputs - channels, line = p.width * channels;
  for_tiles(p.images, p.height, 1, p.images * p.height * line < 10000, [&](int64_t image, int64_t row, int64_t) {
    const int64_t first = (image * p.height + row) * p.width;
    const auto* x = static_cast<const Stored*>(p.x) + first * channels;
    auto* to = static_cast<Stored*>(p.out) + first * p.outputs;
    for (int64_t at = 0; at < p.width; ++at, x += channels, to += p.outputs) {
      const int64_t across = at + 1 < p.width ? channels : 0, down = row + 1 < p.height ? line : 0;
      pool_channels(x, across, down, channels, to);
      std::memcpy(to + channels, y + (first + at) * others, others * sizeof(Stored));
    }
  });
}

// Maps of `factor` * `factor` channels (images, height, width, channels) to planes as much larger, in float32.
template <class Stored>
void spread(const Stored* x, int64_t images, int64_t height, int64_t width, int64_t factor, float* to) {
  const int64_t square = factor * factor;
  for_tiles(images, height, 1, images * height * width * square < 10000, [&](int64_t image, int64_t y, int64_t) {
    const Stored* from = x + (image * height + y) * width * square;
    float* lines = to + (image * height + y) * width * square;
    for (int64_t in = 0; in < factor; ++in)
      for (int64_t at = 0; at < width; ++at) {
        float* pixels = lines + (in * width + at) * factor;
        const Stored* given = from + at * square + in * factor;
        int64_t i = 0;
        for (; i + 4 <= factor; i += 4) store<4>(pixels + i, load<4>(given + i));
        for (; i < factor; ++i) pixels[i] = load<1>(given + i)[0];
      }
  });
}

}  // namespace paddle2torch
