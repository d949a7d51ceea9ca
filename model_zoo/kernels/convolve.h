// Convolutions of maps with the channels last, (N, H, W, C), as matrix products of rows that are made tile by tile.
//
// The rows of a tile are small enough to stay in the cache until they are multiplied. They are the map itself, what a
// depthwise convolution makes of it (so that a separable convolution never writes its middle), or the values under
// the kernel.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "products.h"

namespace paddle2torch {

// A coarse map that adds to a result `factor` times as fine. `from`: (N, H + 1, W + 1, kinds * kinds * outputs), where
// kinds is 2 for a factor of 2, else 3: what the first, the inner and the last of `factor` results in a row get, for each
// cell of a map (N, H, W); the last ones stand one cell further on. See `model_zoo.native`.
struct Coarse {
  const void* from;
  int64_t factor, height, width;  // of the cells
};

struct Geometry {
  int64_t kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;

  int64_t height(int64_t from) const { return (from + 2 * padding_height - kernel_height) / stride_height + 1; }
  int64_t width(int64_t from) const { return (from + 2 * padding_width - kernel_width) / stride_width + 1; }
  bool pointwise() const {
    return kernel_height * kernel_width * stride_height * stride_width == 1 && padding_height + padding_width == 0;
  }
};

// What the channels of an image are padded to, so that they fill a group of every kind.
constexpr int64_t IMAGE_CHANNELS = 4;

struct Problem {
  const void* x;
  bool planes;  // x is an image as it comes, float32 (N, 3, H, W); `channels` counts IMAGE_CHANNELS then
  int64_t images, height, width, channels;
  Geometry geometry;          // of the depthwise convolution where there is one
  const void* depth_weight;   // (kernel height, kernel width, channels), of the maps' type; or null
  const float* depth_bias;
  Tail depth_tail;
  const float* gate;  // (images, channels), or null: what the rows' channels are multiplied by
  const void* weight;  // packed
  int64_t weight_image;  // values from one image's weights to the next one's; 0: the same for all
  const float* weight_scale;
  const float* bias;  // padded to whole vectors
  Tail tail;
  int64_t outputs;
  const float* steps;  // of int8: rows are x * steps + offset, cut to whole numbers from 0 to 255
  float offset;
  const Coarse* coarse;
  int sources;
  void* out;

  const float* gate_of(int64_t image) const { return gate ? gate + image * channels : nullptr; }

  // Whether rows are what lies under the kernel, copied line by line.
  bool copies_lines() const { return !depth_weight && !geometry.pointwise(); }
};

// Groups in a whole row of what is multiplied.
template <class P>
int64_t groups_of(const Problem& p) {
  const Geometry& g = p.geometry;
  const int64_t run = (p.depth_weight ? 1 : g.kernel_width) * p.channels;
  return (run + P::GROUP - 1) / P::GROUP * (p.depth_weight ? 1 : g.kernel_height);
}

template <int N, class To>
inline void keep(To* to, Floats<N> x, const float* steps, float offset) {
  if constexpr (std::is_same_v<To, uint8_t>) {
    const Floats<N> whole = between<N>(x * load<N>(steps) + offset, 0.0f, 255.0f);
    *reinterpret_cast<Vector<uint8_t, N>*>(to) =
        __builtin_convertvector(__builtin_convertvector(whole, Ints<N>), Vector<uint8_t, N>);
  } else {
    store<N>(to, x);
  }
}

// `count` channels to a row, multiplied by `gate` where there is one. At the end a whole vector is done once more.
template <int N, class To, class From>
inline void copy_vectors(To* to, const From* from, int64_t count, const float* gate, const float* steps, float offset) {
  for (int64_t c = 0; c < count; c += N) {
    c = std::min(c, count - N);
    Floats<N> x = load<N>(from + c);
    if (gate) x *= load<N>(gate + c);
    keep<N>(to + c, x, steps ? steps + c : nullptr, offset);
  }
}

template <class To, class From>
inline void copy_channels(To* to, const From* from, int64_t count, const float* gate, const float* steps, float offset) {
  if (count >= LANES) return copy_vectors<LANES>(to, from, count, gate, steps, offset);
  if (count >= HALF) return copy_vectors<HALF>(to, from, count, gate, steps, offset);
  if constexpr (std::is_same_v<To, From>) {
    if (!gate) {
      std::memcpy(to, from, count * sizeof(To));
      return;
    }
  }
  From few[HALF] = {};
  float gates[HALF] = {}, some_steps[HALF] = {};
  To kept[HALF];
  std::memcpy(few, from, count * sizeof(From));
  if (gate) std::memcpy(gates, gate, count * sizeof(float));
  if (steps) std::memcpy(some_steps, steps, count * sizeof(float));
  copy_vectors<HALF>(kept, few, HALF, gate ? gates : nullptr, steps ? some_steps : nullptr, offset);
  std::memcpy(to, kept, count * sizeof(To));
}

// The places of two vectors that the results of a shuffle come from: WHICH of two ways to lay them side by side.
template <int N, int EACH, int WHICH>
inline Ints<N> side_by_side() {
  Ints<N> places;
  for (int i = 0; i < N; ++i) {
    const int part = WHICH * N / 2 / EACH + i / (2 * EACH);  // of EACH values, first of the one vector, then of the other
    places[i] = part * EACH + i % EACH + (i / EACH % 2) * N;
  }
  return places;
}

// Pixels [0, count) of a line of an image in planes: three channels and a zero. The next plane is `plane` values on.
template <class To>
inline void copy_planes(To* to, const float* from, int64_t plane, int64_t count, const float* steps, float offset) {
  constexpr int N = LANES;
  float all_steps[N];
  for (int i = 0; i < N; ++i) all_steps[i] = steps ? steps[i % IMAGE_CHANNELS] : 1.0f;
  int64_t x = 0;
  for (; x + N <= count; x += N) {
    const Floats<N> one = load<N>(from + x), two = load<N>(from + x + plane), three = load<N>(from + x + 2 * plane);
    const Floats<N> first[] = {__builtin_shuffle(one, two, side_by_side<N, 1, 0>()), __builtin_shuffle(one, two, side_by_side<N, 1, 1>())};
    const Floats<N> last[] = {__builtin_shuffle(three, Floats<N>{}, side_by_side<N, 1, 0>()),
                              __builtin_shuffle(three, Floats<N>{}, side_by_side<N, 1, 1>())};
    for (int half = 0; half < 2; ++half) {
      To* pixels = to + (x + half * N / 2) * IMAGE_CHANNELS;
      keep<N>(pixels, __builtin_shuffle(first[half], last[half], side_by_side<N, 2, 0>()), all_steps, offset);
      keep<N>(pixels + N, __builtin_shuffle(first[half], last[half], side_by_side<N, 2, 1>()), all_steps, offset);
    }
  }
  for (; x < count; ++x) {
    const Floats<4> pixel = {from[x], from[x + plane], from[x + 2 * plane], 0.0f};
    keep<4>(to + x * IMAGE_CHANNELS, pixel, all_steps, offset);
  }
}

// The lines under the kernel for outputs (y, x0 to x1) of an image, with zeros where the kernel sees padding: each of
// `columns` pixels, `line` values after the one before.
template <class P>
void copy_lines(const Problem& p, int64_t number, const float* gate, int64_t y, int64_t x0, int64_t columns,
                typename P::Value* to, int64_t line) {
  const Geometry& g = p.geometry;
  const int64_t left = x0 * g.stride_width - g.padding_width, channels = p.channels;
  const auto* image = static_cast<const typename P::Stored*>(p.x) + number * p.height * p.width * channels;
  const float* planes = static_cast<const float*>(p.x) + number * p.height * p.width * 3;
  const int64_t first = std::clamp<int64_t>(-left, 0, columns), last = std::clamp(p.width - left, first, columns);
  typename P::Value zero{};
  if constexpr (std::is_same_v<typename P::Value, uint8_t>) zero = static_cast<uint8_t>(p.offset);
  for (int64_t ky = 0; ky < g.kernel_height; ++ky, to += line) {
    const int64_t from_y = y * g.stride_height - g.padding_height + ky;
    if (from_y < 0 || from_y >= p.height) {
      std::fill(to, to + columns * channels, zero);
      continue;
    }
    std::fill(to, to + first * channels, zero);
    const auto* from = image + (from_y * p.width + left) * channels;
    if (p.planes) {
      const float* line = planes + from_y * p.width + left + first;
      copy_planes(to + first * channels, line, p.height * p.width, last - first, p.steps, p.offset);
    } else if (gate || p.steps) {
      for (int64_t x = first; x < last; ++x)
        copy_channels(to + x * channels, from + x * channels, channels, gate, p.steps, p.offset);
    } else {
      copy_channels(to + first * channels, from + first * channels, (last - first) * channels, nullptr, nullptr, 0.0f);
    }
    std::fill(to + last * channels, to + columns * channels, zero);
  }
}

// Results of a depthwise convolution that lie beside each other and see no padding to their sides.
constexpr int BESIDE = 8;

// The lines of a map that a depthwise convolution sees at once, or a part of each: `width` pixels, of which the first is
// `begin` in its line of the map. Where the map ends there is none.
template <class From>
struct Lines {
  const From* of[5];
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
// The same BESIDE results and 32 channels of them in bfloat16: the instruction adds the products of two lines at a time.
// `left` is where the first result's kernel begins in the lines.
template <int KERNEL, int STRIDE>
inline void depthwise_pairs(const Problem& p, const Lines<BFloat16>& lines, int64_t left, int64_t c, BFloat16* to, int64_t row) {
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
      const __m512bh values[] = {(__m512bh)_mm512_unpacklo_epi16(above, below), (__m512bh)_mm512_unpackhi_epi16(above, below)};
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
  // Where each channel is among the rounded: those of the first 16 lanes, then the others.
  alignas(64) static constexpr uint16_t order[32] = {0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23,
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
  // Channels run fastest, as they lie in memory: what has to be fetched comes in one stream.
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
      for (; c + 32 <= channels; c += 32)
        depthwise_pairs<KERNEL, STRIDE>(p, lines, left, c, to + (x - x0) * row, row);
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
  if (g.kernel_width == 3) return once ? depthwise_line<From, To, N, 3, 1> : depthwise_line<From, To, N, 3, 2>;
  return once ? depthwise_line<From, To, N, 5, 1> : depthwise_line<From, To, N, 5, 2>;
}

template <class From, class To>
DepthwiseLine<From, To> depthwise_line_for(const Problem& p) {
  return p.channels >= LANES ? depthwise_line_of<From, To, LANES>(p.geometry)
                             : depthwise_line_of<From, To, HALF>(p.geometry);
}

// Call `each(index, first, last)` for tiles of at most `tile` of the `results` of each index, on all threads.
template <class Each>
void for_tiles(int64_t indices, int64_t results, int64_t tile, bool alone, Each each) {
  const int64_t tiles = (results + tile - 1) / tile;
  // Guided: neighbours run on one thread, and where the machine holds one up, the others take its share.
#pragma omp parallel for schedule(guided) if (!alone)
  for (int64_t t = 0; t < indices * tiles; ++t)
    each(t / tiles, t % tiles * tile, std::min(results, (t % tiles + 1) * tile));
}

// Memory of a thread that lasts from call to call.
inline char* scratch(int64_t bytes) {
  thread_local std::unique_ptr<char[]> memory;
  thread_local int64_t capacity = 0;
  if (capacity < bytes + 64) {
    memory.reset(new char[bytes + 64]());
    capacity = bytes + 64;
  }
  return memory.get() + 64 - reinterpret_cast<uintptr_t>(memory.get()) % 64;
}

inline int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

template <class From>
Lines<From> lines_of_map(const Problem& p, int64_t image, int64_t y) {
  const int64_t line = p.width * p.channels;
  const auto* x = static_cast<const From*>(p.x) + image * p.height * line;
  return lines_under<From>(p, y, 0, p.width, [&](int64_t number) { return x + number * line; });
}

// Where the coarse maps have what they add to result `at` of an image `width` wide.
template <class Stored>
void find_coarse(const Problem& p, int64_t image, int64_t at, int64_t width, const Stored** found) {
  for (int source = 0; source < p.sources; ++source) {
    const Coarse& c = p.coarse[source];
    const int64_t kinds = c.factor == 2 ? 2 : 3, y = at / width, x = at % width;
    const auto kind = [&](int64_t in) { return in == 0 ? 0 : in == c.factor - 1 ? kinds - 1 : 1; };
    const auto cell = [&](int64_t of) { return of / c.factor + (of % c.factor == c.factor - 1); };
    const int64_t value = (image * (c.height + 1) + cell(y)) * (c.width + 1) + cell(x);
    const int64_t way = kind(y % c.factor) * kinds + kind(x % c.factor);
    found[source] = static_cast<const Stored*>(c.from) + (value * kinds * kinds + way) * p.outputs;
  }
}

// What a thread needs to make rows of a convolution and to multiply them: `rows` at a time, or a line of so many.
template <class P>
struct Workplace {
  using Value = typename P::Value;
  using Stored = typename P::Stored;

  int64_t row, line;  // values from one made row, or copied line, to the next
  int64_t made_bytes, spare_bytes, bytes;
  Value* made;
  Stored* spare;
  const Stored** coarse;

  Workplace(const Problem& p, int64_t rows) {
    const Geometry& g = p.geometry;
    const int64_t columns = (rows + FEW - 1) * g.stride_width + g.kernel_width;
    // No power of two, or all rows would want the same places of the cache.
    row = rounded_up(p.channels, 16) + 64 / static_cast<int64_t>(sizeof(Value));
    line = rounded_up(columns * p.channels, 64);
    made_bytes = rounded_up((p.copies_lines() ? g.kernel_height * line : (rows + FEW) * row) * sizeof(Value), 64);
    spare_bytes = rounded_up(FEW * Panels(p.outputs).outputs_padded() * sizeof(Stored), 64);
    bytes = made_bytes + spare_bytes + rounded_up((rows + FEW) * p.sources * sizeof(void*), 64);
  }

  void settle(char* memory) {
    made = reinterpret_cast<Value*>(memory);
    spare = reinterpret_cast<Stored*>(memory + made_bytes);
    coarse = reinterpret_cast<const Stored**>(memory + made_bytes + spare_bytes);
  }
};

// Rows that were made, or are going to be, one after another. Where they fill no whole groups they end in zeros: those
// meet weights of zero, but what lies there might be no number.
template <class P>
Rows<P> made_rows(const Problem& p, int64_t count, Workplace<P>& at) {
  const int64_t groups = (p.channels + P::GROUP - 1) / P::GROUP;
  for (int64_t i = 0; i < count && p.channels < groups * P::GROUP; ++i)
    std::fill(at.made + i * at.row + p.channels, at.made + i * at.row + groups * P::GROUP, typename P::Value{});
  return {at.made, at.row, 1, 0, groups};
}

// Pixels that lie one after another: as they are, or copied with a gate, in int8, or where a kernel takes more than there are.
template <class P>
Rows<P> rows_of_pixels(const Problem& p, const float* gate, const typename P::Stored* from, int64_t count, Workplace<P>& at) {
  if constexpr (std::is_same_v<typename P::Value, typename P::Stored>)
    if (!gate && p.channels % P::GROUP == 0 && count >= FEW) return {from, p.channels, 1, 0, p.channels / P::GROUP};
  for (int64_t i = 0; i < count; ++i)
    copy_channels(at.made + i * at.row, from + i * p.channels, p.channels, gate, p.steps, p.offset);
  return made_rows(p, count, at);
}

// Results (y, x0 to x1) of a convolution with a kernel, from the map itself.
template <class P>
Rows<P> rows_of_lines(const Problem& p, int64_t image, int64_t y, int64_t x0, int64_t x1, Workplace<P>& at) {
  const Geometry& g = p.geometry;
  const int64_t columns = (x1 - x0 - 1) * g.stride_width + g.kernel_width;
  copy_lines<P>(p, image, p.gate_of(image), y, x0, columns, at.made, at.line);
  return {at.made, g.stride_width * p.channels, g.kernel_height, at.line, g.kernel_width * p.channels / P::GROUP};
}

// The results of `count` rows, from `first` on of an image: all outputs of each, row after row.
template <class P>
void multiply_all(const Problem& p, int64_t image, int64_t first, Rows<P> rows, int64_t count, Workplace<P>& at,
                  typename P::Stored* results) {
  using Stored = typename P::Stored;
  const Panels panels(p.outputs);
  const int64_t groups = rows.runs * rows.groups, width = p.geometry.width(p.width);
  for (int64_t i = 0; p.sources > 0 && i < std::max<int64_t>(count, FEW); ++i)
    find_coarse(p, image, first + std::min(i, count - 1), width, at.coarse + i * p.sources);
  const auto* weights = static_cast<const typename P::Weight*>(p.weight) + image * p.weight_image;
  const auto* from = rows.first;
  for (int64_t panel = 0, output = 0; panel < panels.count; ++panel) {
    const int halves = panels.halves_of(panel);
    const Kernel<P> kernel = kernel_for<P>(halves);
    Output<P> out{p.weight_scale + output, p.bias + output, p.tail, nullptr, p.outputs, p.outputs - output, at.coarse, p.sources};
    rows.first = from;
    if (count < FEW) {
      out.to = at.spare;
      kernel.few(rows, weights, out);
      const int64_t kept = std::min<int64_t>(halves * HALF, p.outputs - output);
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(results + i * p.outputs + output, at.spare + i * p.outputs, kept * sizeof(Stored));
    } else {
      for (int64_t i = 0; i < count;) {
        const bool many = count >= kernel.rows && count - i > kernel.rows - FEW;
        const int64_t taken = many ? kernel.rows : FEW;
        const int64_t start = std::min(i, count - taken);  // the last rows once more rather than fewer
        rows.first = from + start * rows.row;
        out.to = results + start * p.outputs + output;
        out.coarse = at.coarse + start * p.sources;
        (many ? kernel.many : kernel.few)(rows, weights, out);
        i = start + taken;
      }
    }
    weights += halves * HALF * groups * P::GROUP;
    output += halves * HALF;
  }
}

template <class P>
void convolve(const Problem& p) {
  using Stored = typename P::Stored;
  const Geometry& g = p.geometry;
  const int64_t height = g.height(p.height), width = g.width(p.width), channels = p.channels;
  const bool lines = p.copies_lines();
  const auto depthwise = depthwise_line_for<Stored, typename P::Value>(p);

  // What is multiplied at a time: results of an image, or of one of its lines. Its values stay in the cache, and there
  // is enough for the threads to share.
  const int64_t indices = lines ? p.images * height : p.images, results = lines ? width : height * width;
  const int64_t values = lines ? g.kernel_height * g.stride_width * channels : channels;
  const int64_t wanted = std::min<int64_t>(24576 / values, indices * results / 16);
  const int64_t tile = std::clamp<int64_t>(wanted / ROWS_TOGETHER * ROWS_TOGETHER, ROWS_TOGETHER, 384);
  const Workplace<P> plan(p, tile);

  const bool small = indices * results * groups_of<P>(p) * p.outputs < 50000;
  for_tiles(indices, results, tile, small, [&](int64_t index, int64_t first, int64_t last) {
    Workplace<P> at = plan;
    at.settle(scratch(plan.bytes));
    const int64_t count = last - first, image = lines ? index / height : index;
    Rows<P> rows{};
    if (lines) {
      rows = rows_of_lines(p, image, index % height, first, last, at);
    } else if (p.depth_weight) {
      for (int64_t i = first; i < last;) {
        const int64_t y = i / width, x0 = i % width, x1 = std::min(width, x0 + last - i);
        depthwise(p, lines_of_map<Stored>(p, image, y), x0, x1, at.made + (i - first) * at.row, at.row);
        i += x1 - x0;
      }
      rows = made_rows(p, count, at);
    } else {
      const auto* x = static_cast<const Stored*>(p.x) + (image * results + first) * channels;
      rows = rows_of_pixels(p, p.gate_of(image), x, count, at);
    }
    const int64_t first_of_image = first + (lines ? index % height * width : 0);
    auto* to = static_cast<Stored*>(p.out) + (index * results + first) * p.outputs;
    multiply_all(p, image, first_of_image, rows, count, at, to);
  });
}

// Of what is divided into strips: about so many in all, of at least so many columns, with so much of all maps;
// and of two maps that follow on one another.
constexpr int64_t STRIPS = 4, STRIP_AT_LEAST = 32, STRIP_BYTES = 400000, SMALL_BYTES = 6000000;

// Convolutions one after another, strip by strip: of each map between two of them only the lines are kept that the
// next one sees, so that they never leave the cache. All after the first are pointwise or separable.
template <class P>
struct Strip {
  using Value = typename P::Value;
  using Stored = typename P::Stored;

  struct Stage {
    const Problem* problem;
    Workplace<P> at;
    DepthwiseLine<Stored, Value> depthwise;
    int64_t lines, pitch;     // that are kept of its results, and values from one to the next
    int64_t first, last;      // columns of its results
    int64_t done;             // lines of them
    Stored* kept;

    int64_t bytes() const { return lines * pitch * sizeof(Stored); }
  };

  std::vector<Stage> stages;
  int64_t image;

  explicit Strip(const std::vector<Problem>& problems, int64_t columns) : image(0) {
    for (const Problem& p : problems)
      stages.push_back({&p, Workplace<P>(p, 0), depthwise_line_for<Stored, Value>(p), 0, 0, 0, 0, 0, nullptr});
    int64_t widest = columns;
    for (size_t i = stages.size(); i-- > 0;) {
      const Problem& p = *stages[i].problem;
      const int64_t before = std::min(p.width, (widest - 1) * p.geometry.stride_width + p.geometry.kernel_width);
      stages[i].at = Workplace<P>(p, widest);
      if (i > 0) {
        stages[i - 1].lines = p.depth_weight ? p.geometry.kernel_height : 1;
        stages[i - 1].pitch = rounded_up(before * p.channels, 32) + 32;  // no power of two, and whole lines of the cache
      }
      widest = before;
    }
  }

  // All that the strip needs but what it shares with others.
  int64_t kept_bytes() const {
    int64_t bytes = 0;
    for (const Stage& stage : stages) bytes += stage.bytes();
    return bytes;
  }

  int64_t bytes() const {
    int64_t most = 0;
    for (const Stage& stage : stages) most = std::max(most, stage.at.bytes);
    return kept_bytes() + most;
  }

  void settle(char* memory) {
    for (Stage& stage : stages) {
      stage.kept = reinterpret_cast<Stored*>(memory);
      memory += stage.bytes();
    }
    for (Stage& stage : stages) stage.at.settle(memory);
  }

  // Columns first to last of the results of an image.
  void run(int64_t number, int64_t first, int64_t last) {
    image = number;
    for (size_t i = stages.size(); i-- > 0;) {
      const Problem& p = *stages[i].problem;
      const Geometry& g = p.geometry;
      stages[i].first = first, stages[i].last = last, stages[i].done = 0;
      last = std::min(p.width, (last - 1) * g.stride_width - g.padding_width + g.kernel_width);
      first = std::max<int64_t>(0, first * g.stride_width - g.padding_width);
    }
    const Problem& end = *stages.back().problem;
    for (int64_t y = 0; y < end.geometry.height(end.height); ++y) make(stages.size() - 1);
  }

  Stored* line(size_t i, int64_t y) const {
    const Stage& stage = stages[i];
    const Problem& p = *stage.problem;
    if (i + 1 < stages.size()) return stage.kept + y % stage.lines * stage.pitch;
    const int64_t height = p.geometry.height(p.height), width = p.geometry.width(p.width);
    return static_cast<Stored*>(p.out) + ((image * height + y) * width + stage.first) * p.outputs;
  }

  // The next line of a stage's results.
  void make(size_t i) {
    Stage& stage = stages[i];
    const Problem& p = *stage.problem;
    const Geometry& g = p.geometry;
    const int64_t y = stage.done++, count = stage.last - stage.first;
    if (i > 0) {
      const int64_t bottom = std::min(p.height - 1, y * g.stride_height - g.padding_height + g.kernel_height - 1);
      while (stages[i - 1].done <= bottom) make(i - 1);
    }
    Rows<P> rows{};
    if (p.copies_lines()) {
      rows = rows_of_lines(p, image, y, stage.first, stage.last, stage.at);
    } else if (p.depth_weight) {
      const auto lines = i == 0 ? lines_of_map<Stored>(p, image, y)
                                : lines_under<Stored>(p, y, stages[i - 1].first, stages[i - 1].last - stages[i - 1].first,
                                                      [&](int64_t number) { return line(i - 1, number); });
      stage.depthwise(p, lines, stage.first, stage.last, stage.at.made, stage.at.row);
      rows = made_rows(p, count, stage.at);
    } else {
      const auto* x = i > 0 ? line(i - 1, y)
                            : static_cast<const Stored*>(p.x) + ((image * p.height + y) * p.width + stage.first) * p.channels;
      rows = rows_of_pixels(p, p.gate_of(image), x, count, stage.at);
    }
    multiply_all(p, image, y * g.width(p.width) + stage.first, rows, count, stage.at, line(i, y));
  }
};

// Whether the maps stay in the cache as they are, so that nothing need be made twice at the edges of strips.
template <class P>
bool is_small(const std::vector<Problem>& problems) {
  int64_t most = 0, before = 0;
  for (const Problem& p : problems) {
    const int64_t after = p.images * p.geometry.height(p.height) * p.geometry.width(p.width) * p.outputs;
    most = std::max(most, before + after), before = after;
  }
  return problems.size() == 1 || most * static_cast<int64_t>(sizeof(typename P::Stored)) <= SMALL_BYTES;
}

template <class P>
void convolve_all(const std::vector<Problem>& problems) {
  const Problem& end = problems.back();
  const int64_t images = end.images, width = end.geometry.width(end.width);
  // Strips for the threads to share, as long as what two neighbours both make is little, and as small as the cache.
  int64_t strips = std::clamp<int64_t>((STRIPS + images - 1) / images, 1, std::max<int64_t>(1, width / STRIP_AT_LEAST));
  while (strips < width / STRIP_AT_LEAST && Strip<P>(problems, (width + strips - 1) / strips).kept_bytes() > STRIP_BYTES) ++strips;
  const int64_t columns = std::min(width, rounded_up((width + strips - 1) / strips, 4));
  const Strip<P> plan(problems, columns);
  for_tiles(images, width, columns, false, [&](int64_t image, int64_t first, int64_t last) {
    Strip<P> strip = plan;
    strip.settle(scratch(plan.bytes()));
    strip.run(image, first, last);
  });
}

// A depthwise convolution alone.
template <class Stored>
void depthwise(const Problem& p) {
  const int64_t height = p.geometry.height(p.height), width = p.geometry.width(p.width);
  const auto line = depthwise_line_for<Stored, Stored>(p);
  for_tiles(p.images, height, 1, p.images * height * width * p.channels < 10000, [&](int64_t image, int64_t y, int64_t) {
    auto* to = static_cast<Stored*>(p.out) + (image * height + y) * width * p.channels;
    line(p, lines_of_map<Stored>(p, image, y), 0, width, to, p.channels);
  });
}

// The mean of each channel of each image, to float32 (images, channels).
template <class Stored>
void mean(const Problem& p, float* to) {
  const int64_t pixels = p.height * p.width, channels = p.channels, padded = rounded_up(channels, LANES);
  const int64_t part = std::max<int64_t>(64, 16384 / channels), parts = (pixels + part - 1) / part;
  // Of each part by itself, so that the result does not depend on the number of threads.
  std::unique_ptr<float[]> sums(new float[p.images * parts * padded]());
  for_tiles(p.images, pixels, part, p.images * pixels * channels < 20000, [&](int64_t image, int64_t first, int64_t last) {
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

// Self-attention over the steps of sequences: `qkv` (sequences, steps, 3, heads, width) to (sequences, steps, heads, width).
template <class Stored>
void attend(const Stored* qkv, int64_t sequences, int64_t steps, int64_t heads, int64_t width, float scale, Stored* to) {
  const int64_t row = heads * width, padded = rounded_up(steps, LANES), wide = rounded_up(width, LANES);
  const int64_t floats = width * padded + steps * wide + 2 * padded + 2 * wide;
  for_tiles(sequences, heads, 1, sequences * heads * steps * steps * width < 50000, [&](int64_t n, int64_t head, int64_t) {
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
