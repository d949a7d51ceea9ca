// Convolutions of maps with the channels last, (N, H, W, C), as matrix products of rows that are made tile by tile.
//
// The rows of a tile are small enough to stay in the cache until they are multiplied. They are the map itself, what a
// depthwise convolution makes of it (so that a separable convolution never writes its middle), or the values under
// the kernel.
#pragma once

#include <cmath>
#include <memory>

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
  const float* depth_weight;  // (kernel height, kernel width, channels), or null
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

// Pixels [0, count) of a line of an image in planes: three channels and a zero. The next plane is `plane` values on.
template <class To>
inline void copy_planes(To* to, const float* from, int64_t plane, int64_t count, const float* steps, float offset) {
  for (int64_t x = 0; x < count; ++x, ++from, to += IMAGE_CHANNELS) {
    const Floats<4> pixel = {from[0], from[plane], from[2 * plane], 0.0f};
    keep<4>(to, pixel, steps, offset);
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

// Outputs (y, x0 to x1) of a depthwise convolution, N channels at a time, each output `row` values after the one before.
template <class From, class To, int N, int KERNEL, int STRIDE>
void depthwise_line(const Problem& p, const From* image, int64_t y, int64_t x0, int64_t x1, To* to, int64_t row) {
  const Geometry& g = p.geometry;
  const int64_t channels = p.channels, line = p.width * channels, top = y * g.stride_height - g.padding_height;
  const int64_t first = std::max<int64_t>(0, -top), last = std::min(g.kernel_height, p.height - top);
  const int64_t inside0 = std::clamp((g.padding_width + STRIDE - 1) / STRIDE, x0, x1);
  const int64_t room = p.width + g.padding_width - KERNEL;
  const int64_t inside1 = std::clamp(room < 0 ? 0 : room / STRIDE + 1, inside0, x1);
  const From* from = image + top * line;
  // Channels run fastest, as they lie in memory: what has to be fetched comes in one stream.
  const auto one = [&](int64_t x) {
    const int64_t left = x * STRIDE - g.padding_width;
    const int64_t kx0 = std::max<int64_t>(0, -left), kx1 = std::min<int64_t>(KERNEL, p.width - left);
    for (int64_t c = 0; c < channels; c += N) {
      c = std::min(c, channels - N);
      Floats<N> sum = load<N>(p.depth_bias + c);
      for (int64_t ky = first; ky < last; ++ky)
        for (int64_t kx = kx0; kx < kx1; ++kx)
          sum += load<N>(p.depth_weight + (ky * KERNEL + kx) * channels + c) *
                 load<N>(from + ky * line + (left + kx) * channels + c);
      finish<1, N>(&sum, p.depth_tail);
      keep<N>(to + (x - x0) * row + c, sum, p.steps ? p.steps + c : nullptr, p.offset);
    }
  };
  int64_t x = x0;
  for (; x < inside0; ++x) one(x);
  for (; x < inside1 && inside1 - inside0 >= BESIDE; x += BESIDE) {
    x = std::min(x, inside1 - BESIDE);
    const From* corner = from + (x * STRIDE - g.padding_width) * channels;
    for (int64_t c = 0; c < channels; c += N) {
      c = std::min(c, channels - N);
      const Floats<N> bias = load<N>(p.depth_bias + c);
      Floats<N> sums[BESIDE];
#pragma GCC unroll 8
      for (int j = 0; j < BESIDE; ++j) sums[j] = bias;
      for (int64_t ky = first; ky < last; ++ky) {
        const From* values = corner + ky * line + c;
        const float* weights = p.depth_weight + ky * KERNEL * channels + c;
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
using DepthwiseLine = void (*)(const Problem&, const From*, int64_t, int64_t, int64_t, To*, int64_t);

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

template <class P>
void convolve(const Problem& p) {
  using Value = typename P::Value;
  using Stored = typename P::Stored;
  const Geometry& g = p.geometry;
  const int64_t height = g.height(p.height), width = g.width(p.width), channels = p.channels;
  const bool pointwise = p.depth_weight || g.pointwise(), lines = !pointwise;
  const bool as_it_is = pointwise && !p.depth_weight && !p.gate && std::is_same_v<Value, Stored> && channels % P::GROUP == 0;
  const int64_t groups = groups_of<P>(p);
  const Panels panels(p.outputs);
  const auto depthwise = depthwise_line_for<Stored, Value>(p);

  // What is multiplied at a time: results of an image, or of one of its lines. Its values stay in the cache, and there
  // is enough for the threads to share.
  const int64_t indices = lines ? p.images * height : p.images, results = lines ? width : height * width;
  const int64_t values = lines ? g.kernel_height * g.stride_width * channels : channels;
  const int64_t wanted = std::min<int64_t>(24576 / values, indices * results / 16);
  const int64_t tile = std::clamp<int64_t>(wanted / ROWS_TOGETHER * ROWS_TOGETHER, ROWS_TOGETHER, 384);
  const int64_t columns = (tile + ROWS_TOGETHER - 1) * g.stride_width + g.kernel_width;  // of a line
  // No power of two, or all rows would want the same places of the cache.
  const int64_t row = rounded_up(channels, 16) + 64 / static_cast<int64_t>(sizeof(Value));
  const int64_t line = rounded_up(columns * channels, 64);
  const int64_t made_bytes = rounded_up((lines ? g.kernel_height * line : (tile + ROWS_TOGETHER) * row) * sizeof(Value), 64);
  const int64_t spare_bytes = rounded_up(ROWS_TOGETHER * panels.outputs_padded() * sizeof(Stored), 64);
  const int64_t bytes = made_bytes + spare_bytes + (tile + ROWS_TOGETHER) * p.sources * sizeof(void*);

  const bool small = indices * results * groups * p.outputs < 50000;
  for_tiles(indices, results, tile, small, [&](int64_t index, int64_t first, int64_t last) {
    char* memory = scratch(bytes);
    auto* made = reinterpret_cast<Value*>(memory);
    auto* spare = reinterpret_cast<Stored*>(memory + made_bytes);
    auto* coarse = reinterpret_cast<const Stored**>(memory + made_bytes + spare_bytes);
    const int64_t count = last - first, image = lines ? index / height : index;
    const auto* x = static_cast<const Stored*>(p.x) + image * p.height * p.width * channels;
    const float* gate = p.gate ? p.gate + image * channels : nullptr;

    Rows<P> rows{made, row, 1, 0, (channels + P::GROUP - 1) / P::GROUP};
    if (lines) {
      const int64_t needed = (count - 1) * g.stride_width + g.kernel_width;
      copy_lines<P>(p, image, gate, index % height, first, needed, made, line);
      rows = {made, g.stride_width * channels, g.kernel_height, line, g.kernel_width * channels / P::GROUP};
    } else if (p.depth_weight) {
      for (int64_t at = first; at < last;) {
        const int64_t y = at / width, x0 = at % width, x1 = std::min(width, x0 + last - at);
        depthwise(p, x, y, x0, x1, made + (at - first) * row, row);
        at += x1 - x0;
      }
    } else if (as_it_is && count >= ROWS_TOGETHER / 2) {  // a kernel may take so many; fewer need room after them
      if constexpr (std::is_same_v<Value, Stored>) rows.first = x + first * channels;
      rows.row = channels;
    } else {
      for (int64_t at = first; at < last; ++at)
        copy_channels(made + (at - first) * row, x + at * channels, channels, gate, p.steps, p.offset);
    }
    if (!lines && channels % P::GROUP != 0)  // met by weights of zero, but what lies there might be no number
      for (int64_t at = 0; at < count; ++at)
        std::fill(made + at * row + channels, made + at * row + rows.groups * P::GROUP, Value{});
    if (p.sources > 0)
      for (int64_t at = 0; at < std::max(count, ROWS_TOGETHER); ++at)
        find_coarse(p, image, std::min(at, count - 1) + first + (lines ? index % height * width : 0), width,
                    coarse + at * p.sources);

    auto* results_of = static_cast<Stored*>(p.out) + (index * results + first) * p.outputs;
    const auto* weights = static_cast<const typename P::Weight*>(p.weight) + image * p.weight_image;
    const auto* from = rows.first;
    for (int64_t panel = 0, output = 0; panel < panels.count; ++panel) {
      const int halves = panels.halves_of(panel);
      const Kernel<P> kernel = kernel_for<P>(halves);
      Output<P> out{p.weight_scale + output, p.bias + output, p.tail, nullptr, p.outputs, p.outputs - output, coarse, p.sources};
      rows.first = from;
      if (count < kernel.rows) {
        out.to = spare;
        kernel.multiply(rows, weights, out);
        const int64_t kept = std::min<int64_t>(halves * HALF, p.outputs - output);
        for (int64_t r = 0; r < count; ++r)
          std::memcpy(results_of + r * p.outputs + output, spare + r * p.outputs, kept * sizeof(Stored));
      } else {
        for (int64_t r = 0; r < count; r += kernel.rows) {
          const int64_t start = std::min(r, count - kernel.rows);  // the last rows once more rather than fewer
          rows.first = from + start * rows.row;
          out.to = results_of + start * p.outputs + output;
          out.coarse = coarse + start * p.sources;
          kernel.multiply(rows, weights, out);
        }
      }
      weights += halves * HALF * groups * P::GROUP;
      output += halves * HALF;
    }
  });
}

// A depthwise convolution alone.
template <class Stored>
void depthwise(const Problem& p) {
  const int64_t height = p.geometry.height(p.height), width = p.geometry.width(p.width);
  const auto line = depthwise_line_for<Stored, Stored>(p);
  for_tiles(p.images, height, 1, p.images * height * width * p.channels < 10000, [&](int64_t image, int64_t y, int64_t) {
    const auto* x = static_cast<const Stored*>(p.x) + image * p.height * p.width * p.channels;
    auto* to = static_cast<Stored*>(p.out) + (image * height + y) * width * p.channels;
    line(p, x, y, 0, width, to, p.channels);
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
  const int64_t floats = width * padded + steps * wide + padded + wide;
  for_tiles(sequences, heads, 1, sequences * heads * steps * steps * width < 50000, [&](int64_t n, int64_t head, int64_t) {
    auto* keys = reinterpret_cast<float*>(scratch(floats * sizeof(float)));  // (width, steps)
    float* values = keys + width * padded;                                   // (steps, width)
    float* weights = values + steps * wide;
    float* sums = weights + padded;
    const Stored* from = qkv + n * steps * 3 * row + head * width;
    std::fill(keys, keys + floats, 0.0f);
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t i = 0; i < width; ++i) {
        keys[i * padded + t] = load<1>(from + (3 * t + 1) * row + i)[0];
        values[t * wide + i] = load<1>(from + (3 * t + 2) * row + i)[0];
      }
    for (int64_t t = 0; t < steps; ++t) {
      float largest = -INFINITY, total = 0.0f;
      for (int64_t other = 0; other < padded; other += LANES) {
        Floats<LANES> score = {};
        for (int64_t i = 0; i < width; ++i)
          score += load<LANES>(keys + i * padded + other) * (load<1>(from + 3 * t * row + i)[0] * scale);
        store<LANES>(weights + other, score);
      }
      for (int64_t other = 0; other < steps; ++other) largest = std::max(largest, weights[other]);
      for (int64_t other = 0; other < padded; other += LANES)
        store<LANES>(weights + other, exponential<LANES>(load<LANES>(weights + other) - largest));
      for (int64_t other = 0; other < steps; ++other) total += weights[other];
      for (int64_t i = 0; i < wide; i += LANES) {
        Floats<LANES> sum = {};
        for (int64_t other = 0; other < steps; ++other) sum += load<LANES>(values + other * wide + i) * weights[other];
        store<LANES>(sums + i, sum / total);
      }
      Stored* result = to + (n * steps + t) * row + head * width;
      for (int64_t i = 0; i < width; ++i) store<1>(result + i, load<1>(sums + i));
    }
  });
}

}  // namespace paddle2torch
