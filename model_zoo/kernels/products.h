// A matrix product of a few rows, with its bias, activation and rounding: the inner loop of every convolution.
//
// The right-hand side, the weights, is laid out in panels as wide as the registers hold (`pack`). In float32, bfloat16
// and int8 four bytes of a row (1, 2 or 4 values: a group) meet 4 bytes of each output, so that one loop serves all.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vectors.h"

namespace paddle2torch {

struct Float32 {
  using Value = float;  // of a row
  using Weight = float;
  using Stored = float;  // of maps between convolutions
  static constexpr int GROUP = 1;
  template <int N>
  using Sums = Floats<N>;

  template <int N>
  static inline void add(Floats<N>& sums, const float* row, const float* weights) {
    sums += load<N>(weights) * *row;
  }
};

#if defined(__AVX512F__)
inline __m512i four_bytes_everywhere(const void* bytes) {
  typedef float Any __attribute__((may_alias, aligned(1)));
  // As a float: otherwise the compiler goes through a general register.
  return _mm512_castps_si512(_mm512_set1_ps(*static_cast<const Any*>(bytes)));
}
#endif

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#define PADDLE2TORCH_BFLOAT16
struct BFloat16s {
  using Value = BFloat16;
  using Weight = BFloat16;
  using Stored = BFloat16;
  static constexpr int GROUP = 2;
  template <int N>
  using Sums = Floats<N>;

  template <int N>
  static inline void add(Floats<N>& sums, const BFloat16* row, const BFloat16* weights) {
    const __m512i pair = four_bytes_everywhere(row);
    if constexpr (N == 16) {
      sums = _mm512_dpbf16_ps(sums, (__m512bh)pair, (__m512bh)_mm512_loadu_si512(weights));
    } else {
      const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
      sums = _mm256_dpbf16_ps(sums, (__m256bh)_mm512_castsi512_si256(pair), (__m256bh)some);
    }
  }
};
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define PADDLE2TORCH_INT8
struct Int8 {
  using Value = uint8_t;
  using Weight = int8_t;
  using Stored = float;
  static constexpr int GROUP = 4;
  template <int N>
  using Sums = Ints<N>;

  template <int N>
  static inline void add(Ints<N>& sums, const uint8_t* row, const int8_t* weights) {
    const __m512i four = four_bytes_everywhere(row);
    if constexpr (N == 16) {
      sums = (Ints<N>)_mm512_dpbusd_epi32((__m512i)sums, four, _mm512_loadu_si512(weights));
    } else {
      const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
      sums = (Ints<N>)_mm256_dpbusd_epi32((__m256i)sums, _mm512_castsi512_si256(four), some);
    }
  }
};
#endif

// How outputs are divided into panels, counted in half vectors: each of up to three vectors, the last with a half
// one where that is enough for the rest.
struct Panels {
  int64_t halves, vectors, count;

  explicit Panels(int64_t outputs)
      : halves((outputs + HALF - 1) / HALF), vectors((halves + 1) / 2), count((vectors + 2) / 3) {}

  int halves_of(int64_t panel) const {
    const int64_t whole = vectors / count + (panel < vectors % count);
    return static_cast<int>(2 * whole - (panel == count - 1 && halves % 2 == 1 && whole > 1));
  }

  int64_t outputs_padded() const { return vectors * LANES; }

  // Number of values of the packed weights.
  int64_t size(int64_t groups, int group) const {
    int64_t width = 0;
    for (int64_t panel = 0; panel < count; ++panel) width += halves_of(panel) * HALF;
    return width * groups * group;
  }
};

// Lay out weights (outputs, inputs), `row` values from one output to the next, as `multiply` reads them: for each panel
// and group of inputs the values of the group, output after output. What is beyond the end is zero.
template <class To, class From, class Convert>
void pack(const From* weight, int64_t outputs, int64_t inputs, int64_t row, int group, To* to, Convert convert) {
  const Panels panels(outputs);
  const int64_t groups = (inputs + group - 1) / group;
  int64_t first = 0;
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    const int64_t width = panels.halves_of(panel) * HALF;
    for (int64_t k = 0; k < groups; ++k)
      for (int64_t o = first; o < first + width; ++o)
        for (int64_t i = k * group; i < (k + 1) * group; ++i)
          *to++ = o < outputs && i < inputs ? convert(weight[o * row + i]) : To{};
    first += width;
  }
}

// What is done to sums before they are stored. `coarse` has, for each row, `sources` pointers to values that are added
// first.
template <class P>
struct Output {
  using Stored = typename P::Stored;
  const float* weight_scale;  // of int8
  const float* bias;
  Tail tail;
  Stored* to;
  int64_t row;    // from one row to the next
  int64_t first;  // the output that `to` begins with
  int64_t count;  // outputs from `to` on
  const Stored* const* coarse;
  int sources;
};

template <class P, int ROWS, int N, class Sums>
__attribute__((always_inline)) inline void put(const Sums (&sums)[ROWS], const Output<P>& out, int64_t at) {
  Floats<N> y[ROWS];
  if constexpr (std::is_same_v<P, Float32> || P::GROUP == 2) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) y[i] = sums[i];
  } else {
    const Floats<N> scale = load<N>(out.weight_scale + at), bias = load<N>(out.bias + at);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) y[i] = __builtin_convertvector(sums[i], Floats<N>) * scale + bias;
  }
  for (int i = 0; i < ROWS && out.sources > 0; ++i)
    for (int s = 0; s < out.sources; ++s) {
      const auto* from = out.coarse[i * out.sources + s] + out.first + at;
      y[i] += out.count - at >= N ? load<N>(from) : load_first<N>(from, out.count - at);
    }
  finish<ROWS, N>(y, out.tail);
  if (out.count - at >= N) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) store<N>(out.to + i * out.row + at, y[i]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) store_first<N>(out.to + i * out.row + at, y[i], out.count - at);
  }
}

// The left-hand side. Each row begins `row` values after the one before, and is `runs` runs of `groups` groups, each
// run `run` values after the one before: the lines under a kernel.
template <class P>
struct Rows {
  const typename P::Value* first;
  int64_t row, runs, run, groups;
};

// Products of a result that are added up by themselves before the next ones. Every addition rounds, and over a page's
// background it rounds all results alike: a sum of 288 products in one go was three times as far from the exact one.
constexpr int64_t PRODUCTS_TOGETHER = 64;

template <class Sums>
inline void take(Sums& parts, Sums& sums) {
  parts += sums;
  sums = Sums{};
}

// ROWS rows times a panel of WHOLE vectors and perhaps half a one.
template <class P, int ROWS, int WHOLE, bool AND_HALF>
void multiply(const Rows<P>& rows, const typename P::Weight* weights, const Output<P>& out) {
  constexpr int WIDTH = WHOLE * LANES + AND_HALF * HALF, GROUP = P::GROUP;
  constexpr bool FLOAT = std::is_same_v<P, Float32> || GROUP == 2;
  // Every loop over these is unrolled, so that the compiler keeps them in registers.
  typename P::template Sums<LANES> whole[WHOLE][ROWS];
  typename P::template Sums<HALF> half[ROWS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < WHOLE; ++j) {
      if constexpr (FLOAT)
        whole[j][i] = load<LANES>(out.bias + j * LANES);
      else
        whole[j][i] = typename P::template Sums<LANES>{};
    }
    if constexpr (AND_HALF) {
      if constexpr (FLOAT)
        half[i] = load<HALF>(out.bias + WHOLE * LANES);
      else
        half[i] = typename P::template Sums<HALF>{};
    }
  }
  const int64_t row = rows.row;
  // Sums of int8 are exact. The parts wait in memory: the registers are for the part that is being added up.
  const bool in_parts = FLOAT && rows.runs * rows.groups * GROUP > PRODUCTS_TOGETHER;
  typename P::template Sums<LANES> whole_parts[WHOLE][ROWS];
  typename P::template Sums<HALF> half_parts[ROWS];
  if (in_parts) {
    for (auto& parts : whole_parts) std::fill(parts, parts + ROWS, typename P::template Sums<LANES>{});
    std::fill(half_parts, half_parts + ROWS, typename P::template Sums<HALF>{});
  }
  for (int64_t run = 0; run < rows.runs; ++run) {
    const auto* values = rows.first + run * rows.run;
    for (int64_t k = 0; k < rows.groups;) {
      const int64_t end = in_parts ? std::min(rows.groups, k + PRODUCTS_TOGETHER / GROUP) : rows.groups;
      for (; k < end; ++k, values += GROUP, weights += WIDTH * GROUP) {
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < WHOLE; ++j)
            P::template add<LANES>(whole[j][i], values + i * row, weights + j * LANES * GROUP);
          if constexpr (AND_HALF) P::template add<HALF>(half[i], values + i * row, weights + WHOLE * LANES * GROUP);
        }
      }
      if (!in_parts) continue;
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < WHOLE; ++j) take(whole_parts[j][i], whole[j][i]);
        if constexpr (AND_HALF) take(half_parts[i], half[i]);
      }
    }
  }
  if (in_parts) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < WHOLE; ++j) whole[j][i] = whole_parts[j][i];
      if constexpr (AND_HALF) half[i] = half_parts[i];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < WHOLE; ++j) put<P, ROWS, LANES>(whole[j], out, j * LANES);
  if constexpr (AND_HALF) put<P, ROWS, HALF>(half, out, WHOLE * LANES);
}

template <class P>
struct Kernel {
  void (*many)(const Rows<P>&, const typename P::Weight*, const Output<P>&);
  int rows;
  void (*few)(const Rows<P>&, const typename P::Weight*, const Output<P>&);
};

// Rows of a tile are a multiple of every kernel's, as far as there are enough. The rest is done FEW at a time: enough
// independent sums to hide the latency of a multiplication.
constexpr int64_t ROWS_TOGETHER = 24;
constexpr int FEW = REGISTERS == 32 ? 4 : 2;

// The kernel for a panel of this many half vectors: as many rows as leave registers for the weights and one value.
template <class P>
Kernel<P> kernel_for(int halves) {
  constexpr int MANY = REGISTERS == 32 ? 12 : 6, SOME = REGISTERS == 32 ? 8 : 4;
  switch (halves) {
    case 6:
      return {multiply<P, SOME, 3, false>, SOME, multiply<P, FEW, 3, false>};
    case 5:
      return {multiply<P, SOME, 2, true>, SOME, multiply<P, FEW, 2, true>};
    case 4:
      return {multiply<P, MANY, 2, false>, MANY, multiply<P, FEW, 2, false>};
    case 3:
      return {multiply<P, MANY, 1, true>, MANY, multiply<P, FEW, 1, true>};
    default:
      return {multiply<P, MANY, 1, false>, MANY, multiply<P, FEW, 1, false>};
  }
}

}  // namespace paddle2torch
