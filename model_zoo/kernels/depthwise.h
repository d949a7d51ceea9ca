// Depthwise convolutions, line by line: alone, or as the rows of the pointwise one after them.
#pragma once

#include "problem.h"

namespace paddle2torch {

// Neighbouring results of a depthwise convolution that are computed together, where none reads padding at a side.
constexpr int BESIDE = 8;
constexpr int LARGEST_DEPTHWISE = 9;

// The lines of a map that a depthwise convolution sees at once, or a part of each: `width` pixels, of which the first
// is `begin` in its line of the map. Beyond the map's edge a line is null.
template <class From>
struct Lines {
  const From* of[LARGEST_DEPTHWISE];
  int first, last;  // of those that there are
  int64_t begin, width;
};

template <class From, class Place>
Lines<From> lines_under(const Problem& p, int64_t y, int64_t begin, int64_t width, Place place) {
  const int64_t top = y * p.geometry.stride_height - p.geometry.padding_height;
  Lines<From> lines{{}, static_cast<int>(std::max<int64_t>(0, -top)), 0, begin, width};
  lines.last = static_cast<int>(std::min(p.geometry.kernel_height, p.height - top));
  for (int ky = lines.first; ky < lines.last; ++ky) lines.of[ky] = place(top + ky);
  return lines;
}

#if defined(PADDLE2TORCH_BFLOAT16)
// The same BESIDE results and 32 channels of them in bfloat16: the instruction adds the products of two lines at a
// time. `left` is where the first result's kernel begins in the lines.
template <int KERNEL, int STRIDE>
inline void depthwise_pairs(const Problem& p, const Lines<BFloat16>& lines, int64_t left, int64_t c, BFloat16* to,
                            int64_t row) {
  constexpr int COLUMNS = (BESIDE - 1) * STRIDE + KERNEL;
  const int64_t channels = p.channels;
  // Interleaved 4 values at a time, two lines give these channels of 32, and the others.
  const Ints<16> low = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
  const Floats<16> bias[] = {load<16>(p.depth_bias + c), load<16>(p.depth_bias + c + 16)};
  __m512 sums[2][BESIDE];
#pragma GCC unroll 8
  for (int j = 0; j < BESIDE; ++j) sums[0][j] = __builtin_shuffle(bias[0], bias[1], low);
#pragma GCC unroll 8
  for (int j = 0; j < BESIDE; ++j) sums[1][j] = __builtin_shuffle(bias[0], bias[1], low + 4);
  const auto* depth_weight = static_cast<const BFloat16*>(p.depth_weight);
  const __m512i zero = _mm512_setzero_si512();
  for (int ky = lines.first; ky < lines.last; ky += 2) {
    const bool both = ky + 1 < lines.last;
    const BFloat16* one = lines.of[ky] + left + c;
    const BFloat16* two = both ? lines.of[ky + 1] + left + c : nullptr;
    __m512bh weights[2][KERNEL];
#pragma GCC unroll 8
    for (int kx = 0; kx < KERNEL; ++kx) {
      const __m512i above = _mm512_loadu_si512(depth_weight + (ky * KERNEL + kx) * channels + c);
      const __m512i below = both ? _mm512_loadu_si512(depth_weight + ((ky + 1) * KERNEL + kx) * channels + c) : zero;
      weights[0][kx] = (__m512bh)_mm512_unpacklo_epi16(above, below);
      weights[1][kx] = (__m512bh)_mm512_unpackhi_epi16(above, below);
    }
#pragma GCC unroll 32
    for (int column = 0; column < COLUMNS; ++column) {
      const __m512i above = _mm512_loadu_si512(one + column * channels);
      const __m512i below = both ? _mm512_loadu_si512(two + column * channels) : zero;
      const __m512bh values[] = {(__m512bh)_mm512_unpacklo_epi16(above, below),
                                 (__m512bh)_mm512_unpackhi_epi16(above, below)};
#pragma GCC unroll 8
      for (int kx = 0; kx < KERNEL; ++kx) {
        if ((column - kx) % STRIDE != 0 || column < kx || (column - kx) / STRIDE >= BESIDE) continue;
        const int j = (column - kx) / STRIDE;
        sums[0][j] = _mm512_dpbf16_ps(sums[0][j], values[0], weights[0][kx]);
        sums[1][j] = _mm512_dpbf16_ps(sums[1][j], values[1], weights[1][kx]);
      }
    }
  }
  finish<BESIDE, 16>(reinterpret_cast<Floats<16>*>(sums[0]), p.depth_tail);
  finish<BESIDE, 16>(reinterpret_cast<Floats<16>*>(sums[1]), p.depth_tail);
  // The index of each channel among the rounded values: those of the first 16 lanes, then the others.
  alignas(64) static constexpr uint16_t order[32] = {0, 1, 2,  3,  16, 17, 18, 19, 4,  5,  6,  7,  20, 21, 22, 23,
                                                     8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31};
#pragma GCC unroll 8
  for (int j = 0; j < BESIDE; ++j) {
    const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(sums[1][j], sums[0][j]);
    _mm512_storeu_si512(to + j * row + c, _mm512_permutexvar_epi16(_mm512_load_si512(order), rounded));
  }
}
#endif

// Outputs x0 to x1 of a line of a depthwise convolution, N channels at a time, each `row` values after the one before.
template <class From, class To, int N, int KERNEL, int STRIDE>
void depthwise_line(const Problem& p, const Lines<From>& lines, int64_t x0, int64_t x1, To* to, int64_t row) {
  const Geometry& g = p.geometry;
  const int64_t channels = p.channels, before = g.padding_width + lines.begin;  // of output 0, in pixels
  const int64_t inside0 = std::clamp((before + STRIDE - 1) / STRIDE, x0, x1);
  const int64_t room = lines.width + before - KERNEL;
  const int64_t inside1 = std::clamp(room < 0 ? 0 : room / STRIDE + 1, inside0, x1);
  const auto* depth_weight = static_cast<const From*>(p.depth_weight);
  // Channels are the inner loop, as they are in memory: the prefetcher sees one stream.
  const auto one = [&](int64_t x) {
    const int64_t left = x * STRIDE - before;
    const int64_t kx0 = std::max<int64_t>(0, -left), kx1 = std::min<int64_t>(KERNEL, lines.width - left);
    for (int64_t c = 0; c < channels; c += N) {
      c = std::min(c, channels - N);
      Floats<N> sum = load<N>(p.depth_bias + c);
      for (int64_t ky = lines.first; ky < lines.last; ++ky)
        for (int64_t kx = kx0; kx < kx1; ++kx)
          sum += load<N>(depth_weight + (ky * KERNEL + kx) * channels + c) *
                 load<N>(lines.of[ky] + (left + kx) * channels + c);
      finish<1, N>(&sum, p.depth_tail);
      keep<N>(to + (x - x0) * row + c, sum, p.steps ? p.steps + c : nullptr, p.offset);
    }
  };
  int64_t x = x0;
  for (; x < inside0; ++x) one(x);
  for (; x < inside1 && inside1 - inside0 >= BESIDE; x += BESIDE) {
    x = std::min(x, inside1 - BESIDE);
    const int64_t left = (x * STRIDE - before) * channels;
    int64_t c = 0;
#if defined(PADDLE2TORCH_BFLOAT16)
    if constexpr (std::is_same_v<From, BFloat16> && std::is_same_v<To, BFloat16>)
      for (; c + 32 <= channels; c += 32) depthwise_pairs<KERNEL, STRIDE>(p, lines, left, c, to + (x - x0) * row, row);
#endif
    for (; c < channels; c += N) {
      c = std::min(c, channels - N);
      const Floats<N> bias = load<N>(p.depth_bias + c);
      Floats<N> sums[BESIDE];
#pragma GCC unroll 8
      for (int j = 0; j < BESIDE; ++j) sums[j] = bias;
      for (int64_t ky = lines.first; ky < lines.last; ++ky) {
        const From* values = lines.of[ky] + left + c;
        const From* weights = depth_weight + ky * KERNEL * channels + c;
#pragma GCC unroll 8
        for (int kx = 0; kx < KERNEL; ++kx) {
          const Floats<N> weight = load<N>(weights + kx * channels);
#pragma GCC unroll 8
          for (int j = 0; j < BESIDE; ++j) sums[j] += weight * load<N>(values + (j * STRIDE + kx) * channels);
        }
      }
      finish<BESIDE, N>(sums, p.depth_tail);
#pragma GCC unroll 8
      for (int j = 0; j < BESIDE; ++j)
        keep<N>(to + (x + j - x0) * row + c, sums[j], p.steps ? p.steps + c : nullptr, p.offset);
    }
  }
  for (; x < x1; ++x) one(x);
}

template <class From, class To>
using DepthwiseLine = void (*)(const Problem&, const Lines<From>&, int64_t, int64_t, To*, int64_t);

template <class From, class To, int N>
DepthwiseLine<From, To> depthwise_line_of(const Geometry& g) {
  const bool once = g.stride_width == 1;
  if (g.kernel_width == 9) return depthwise_line<From, To, N, 9, 1>;
  if (g.kernel_width == 7) return depthwise_line<From, To, N, 7, 1>;
  if (g.kernel_width == 3) return once ? depthwise_line<From, To, N, 3, 1> : depthwise_line<From, To, N, 3, 2>;
  return once ? depthwise_line<From, To, N, 5, 1> : depthwise_line<From, To, N, 5, 2>;
}

template <class From, class To>
DepthwiseLine<From, To> depthwise_line_for(const Problem& p) {
  return p.channels >= LANES ? depthwise_line_of<From, To, LANES>(p.geometry)
                             : depthwise_line_of<From, To, HALF>(p.geometry);
}

template <class From>
Lines<From> lines_of_map(const Problem& p, int64_t image, int64_t y) {
  const int64_t line = p.width * p.channels;
  const auto* x = static_cast<const From*>(p.x) + image * p.height * line;
  return lines_under<From>(p, y, 0, p.width, [&](int64_t number) { return x + number * line; });
}

// A depthwise convolution alone.
template <class Stored>
void depthwise(const Problem& p) {
  const int64_t height = p.geometry.height(p.height), width = p.geometry.width(p.width);
  const auto line = depthwise_line_for<Stored, Stored>(p);
  for_tiles(p.images, height, 1, p.images * height * width * p.channels < 10000,
            [&](int64_t image, int64_t y, int64_t) {
    auto* to = static_cast<Stored*>(p.out) + (image * height + y) * width * p.channels;
    line(p, lines_of_map<Stored>(p, image, y), 0, width, to, p.channels);
  });
}

}  // namespace paddle2torch
