// Other operations on maps: means of their channels, and channels spread to pixels.
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
