// The arguments of a convolution, and how its work is divided.
#pragma once

#include <memory>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "products.h"

namespace paddle2torch {

// A coarse map that adds to a result `factor` times as fine. `from`: (N, H + 1, W + 1, kinds * kinds * outputs), where
// kinds is 2 for a factor of 2, else 3: what the first, the inner and the last of `factor` results in a row get, for
// each cell of a map (N, H, W); the last ones are one cell further on. See `model_zoo/forms/native.py`. With one kind
// it is a map (N, H, W, outputs), each of whose cells adds to all results that are in it.
struct Coarse {
  const void* from;
  int64_t factor, height, width;  // of the cells
  int64_t kinds;
};

struct Geometry {
  int64_t kernel_height, kernel_width, stride_height, stride_width;
  int64_t padding_height, padding_width;  // above and to the left
  int64_t padding_below, padding_right;

  Geometry() : Geometry(1, 1, 1, 1, 0, 0) {}
  Geometry(int64_t kernel_height, int64_t kernel_width, int64_t stride_height, int64_t stride_width,
           int64_t padding_height, int64_t padding_width)
      : kernel_height(kernel_height),
        kernel_width(kernel_width),
        stride_height(stride_height),
        stride_width(stride_width),
        padding_height(padding_height),
        padding_width(padding_width),
        padding_below(padding_height),
        padding_right(padding_width) {}

  int64_t height(int64_t from) const {
    return (from + padding_height + padding_below - kernel_height) / stride_height + 1;
  }
  int64_t width(int64_t from) const { return (from + padding_width + padding_right - kernel_width) / stride_width + 1; }
  bool pointwise() const {
    return kernel_height * kernel_width * stride_height * stride_width == 1 &&
           padding_height + padding_width + padding_below + padding_right == 0;
  }
};

// Channels of an image after padding: a whole group of every type.
constexpr int64_t IMAGE_CHANNELS = 4;

struct Problem {
  const void* x;
  bool planes;  // x is an image as it comes, float32 (N, 3, H, W); `channels` counts IMAGE_CHANNELS then
  int64_t images, height, width, channels;
  Geometry geometry;         // of the depthwise convolution where there is one
  const void* depth_weight;  // (kernel height, kernel width, channels), of the maps' type; or null
  const float* depth_bias;
  Tail depth_tail;
  const float* gate;     // (images, channels), or null: what the rows' channels are multiplied by
  const void* weight;    // packed
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

// Groups in a whole row of the left-hand side.
template <class P>
int64_t groups_of(const Problem& p) {
  const Geometry& g = p.geometry;
  const int64_t run = (p.depth_weight ? 1 : g.kernel_width) * p.channels;
  return (run + P::GROUP - 1) / P::GROUP * (p.depth_weight ? 1 : g.kernel_height);
}

// A value of a row, or of a map: in int8 it is cut to the steps of its channel.
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

// Threads that `for_tiles` uses at most.
inline int threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// Call `each(index, first, last)` for tiles of at most `tile` of the `results` of each index, on all threads.
template <class Each>
void for_tiles(int64_t indices, int64_t results, int64_t tile, bool alone, Each each) {
  const int64_t tiles = (results + tile - 1) / tile;
  // Guided: neighbouring tiles run on one thread, and the other threads take over where one is held up.
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

}  // namespace paddle2torch
