// Convolutions of maps with the channels last, (N, H, W, C), as matrix products of rows that are made tile by tile.
//
// The rows of a tile are small enough to stay in the cache until they are multiplied. They are the map itself, what a
// depthwise convolution makes of it (so that a separable convolution never writes its middle), or the values under
// the kernel.
#pragma once

#include "depthwise.h"

namespace paddle2torch {

// Copies `count` channels to a row, multiplied by `gate` where there is one. The last vector ends at the last channel,
// so that some channels are copied twice.
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
inline void copy_channels(To* to, const From* from, int64_t count, const float* gate, const float* steps,
                          float offset) {
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

// The indices of a shuffle that puts values of two vectors beside each other; WHICH: the first or second half of them.
template <int N, int EACH, int WHICH>
inline Ints<N> side_by_side() {
  Ints<N> places;
  for (int i = 0; i < N; ++i) {
    // Of EACH values, first of the one vector, then of the other.
    const int part = WHICH * N / 2 / EACH + i / (2 * EACH);
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
    const Floats<N> first[] = {__builtin_shuffle(one, two, side_by_side<N, 1, 0>()),
                               __builtin_shuffle(one, two, side_by_side<N, 1, 1>())};
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

// Where the coarse maps have what they add to `count` results, from result `first` on of an image `width` wide.
template <class Stored>
void find_coarse(const Problem& p, int64_t image, int64_t first, int64_t count, int64_t width, const Stored** found) {
  for (int source = 0; source < p.sources; ++source) {
    const Coarse& c = p.coarse[source];
    const int64_t step = c.kinds * c.kinds * p.outputs, end = c.factor - 1, further = c.kinds > 1;
    const auto kind = [&](int64_t in) { return further == 0 || in == 0 ? 0 : in == end ? c.kinds - 1 : 1; };
    int64_t y = first / width, x = first % width;
    for (int64_t i = 0; i < count; x = 0, ++y) {
      const int64_t line = image * (c.height + further) + y / c.factor + (y % c.factor == end ? further : 0);
      const Stored* cell = static_cast<const Stored*>(c.from) + (line * (c.width + further) + x / c.factor) * step +
                           kind(y % c.factor) * c.kinds * p.outputs;
      // Counted instead of divided: a division takes as long as a vector's products with all weights.
      for (int64_t in = x % c.factor; i < count && x < width; ++i, ++x) {
        found[i * p.sources + source] = cell + (in == end ? further * step : 0) + kind(in) * p.outputs;
        if (++in > end) in = 0, cell += step;
      }
    }
  }
}

// Memory of one thread to make rows of a convolution and to multiply them, `rows` at a time or a line of as many.
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
    // Not a power of two: all rows would share the same sets of the cache.
    row = rounded_up(p.channels, 16) + 64 / static_cast<int64_t>(sizeof(Value));
    line = rounded_up(columns * p.channels, 64);
    made_bytes = rounded_up((p.copies_lines() ? g.kernel_height * line : (rows + FEW) * row) * sizeof(Value), 64);
    spare_bytes = rounded_up(FEW * 3 * LANES * sizeof(Stored), 64);  // of the widest panel
    bytes = made_bytes + spare_bytes + rounded_up((rows + FEW) * p.sources * sizeof(void*), 64);
  }

  void settle(char* memory) {
    made = reinterpret_cast<Value*>(memory);
    spare = reinterpret_cast<Stored*>(memory + made_bytes);
    coarse = reinterpret_cast<const Stored**>(memory + made_bytes + spare_bytes);
  }
};

// Rows in the thread's memory, one after another. Where they do not fill whole groups they end in zeros: the weights
// there are zero, but what was in memory might be NaN.
template <class P>
Rows<P> made_rows(const Problem& p, int64_t count, Workplace<P>& at) {
  const int64_t groups = (p.channels + P::GROUP - 1) / P::GROUP;
  for (int64_t i = 0; i < count && p.channels < groups * P::GROUP; ++i)
    std::fill(at.made + i * at.row + p.channels, at.made + i * at.row + groups * P::GROUP, typename P::Value{});
  return {at.made, at.row, 1, 0, groups};
}

// Consecutive pixels: read where they are, or copied (with a gate, to int8, or where a kernel reads more rows than
// there are).
template <class P>
Rows<P> rows_of_pixels(const Problem& p, const float* gate, const typename P::Stored* from, int64_t count,
                       Workplace<P>& at) {
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

// The results of `count` rows for the outputs of one panel, from `output` on, to rows of `pitch` values.
template <class P>
void multiply_panel(const Problem& p, Rows<P> rows, int64_t count, int halves, const typename P::Weight* weights,
                    int64_t output, const Workplace<P>& at, typename P::Stored* results, int64_t pitch) {
  using Stored = typename P::Stored;
  const Kernel<P> kernel = kernel_for<P>(halves);
  Output<P> out{p.weight_scale + output, p.bias + output, p.tail,   nullptr, pitch, output,
                p.outputs - output,      at.coarse,       p.sources};
  const auto* from = rows.first;
  if (count < FEW) {
    out.to = at.spare;
    out.row = halves * HALF;
    kernel.few(rows, weights, out);
    const int64_t kept = std::min<int64_t>(out.row, p.outputs - output);
    for (int64_t i = 0; i < count; ++i) std::memcpy(results + i * pitch, at.spare + i * out.row, kept * sizeof(Stored));
    return;
  }
  for (int64_t i = 0; i < count;) {
    const bool many = count >= kernel.rows && count - i > kernel.rows - FEW;
    const int64_t taken = many ? kernel.rows : FEW;
    const int64_t start = std::min(i, count - taken);  // the last rows once more rather than fewer
    rows.first = from + start * rows.row;
    out.to = results + start * pitch;
    out.coarse = at.coarse + start * p.sources;
    (many ? kernel.many : kernel.few)(rows, weights, out);
    i = start + taken;
  }
}

// The results of `count` rows, from `first` on of an image: all outputs of each, `pitch` values after the row before.
template <class P>
void multiply_all(const Problem& p, int64_t image, int64_t first, const Rows<P>& rows, int64_t count,
                  const Workplace<P>& at, typename P::Stored* results, int64_t pitch) {
  const Panels panels(p.outputs);
  const int64_t groups = rows.runs * rows.groups, width = p.geometry.width(p.width);
  find_coarse(p, image, first, count, width, at.coarse);
  for (int64_t i = count * p.sources; i < FEW * p.sources; ++i) at.coarse[i] = at.coarse[i - p.sources];
  const auto* weights = static_cast<const typename P::Weight*>(p.weight) + image * p.weight_image;
  for (int64_t panel = 0, output = 0; panel < panels.count; ++panel) {
    const int halves = panels.halves_of(panel);
    multiply_panel(p, rows, count, halves, weights, output, at, results + output, pitch);
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

  // Results that are multiplied at a time, of an image or of one of its lines: few enough that their rows stay in the
  // cache, and enough tiles for all threads.
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
    multiply_all(p, image, first_of_image, rows, count, at, to, p.outputs);
  });
}

}  // namespace paddle2torch
