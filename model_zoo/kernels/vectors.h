// Vectors of the width that the processor has, in the compiler's own vector types: one source for AVX-512, AVX2, NEON.
// Intrinsics are used only where the compiler does not find the instruction by itself.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace paddle2torch {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int HALF = LANES / 2;

template <class T, int N>
struct VectorOf {
  // Aligned like its elements: rows of channels begin anywhere.
  typedef T Type __attribute__((vector_size(sizeof(T) * N), aligned(alignof(T)), may_alias));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::Type;
template <int N>
using Floats = Vector<float, N>;
template <int N>
using Ints = Vector<int32_t, N>;

struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
inline To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <int N>
inline Floats<N> load(const float* from) {
  return *reinterpret_cast<const Floats<N>*>(from);
}

template <int N>
inline Floats<N> load(const BFloat16* from) {
  const auto bits = *reinterpret_cast<const Vector<uint16_t, N>*>(from);
  return same_bits<Floats<N>>(__builtin_convertvector(bits, Vector<uint32_t, N>) << 16);
}

// The first `count` values; the others are zero.
template <int N, class T>
inline Floats<N> load_first(const T* from, int64_t count) {
  T all[N] = {};
  std::memcpy(all, from, count * sizeof(T));
  return load<N>(all);
}

template <int N>
inline void store(float* to, Floats<N> x) {
  *reinterpret_cast<Floats<N>*>(to) = x;
}

// To the nearest, ties to even, as PyTorch rounds.
template <int N>
inline void store(BFloat16* to, Floats<N> x) {
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
  if constexpr (N == 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(x);
    std::memcpy(to, &rounded, sizeof rounded);
    return;
  } else if constexpr (N == 8) {
    const __m128bh rounded = _mm256_cvtneps_pbh(x);
    std::memcpy(to, &rounded, sizeof rounded);
    return;
  }
#endif
  auto bits = same_bits<Vector<uint32_t, N>>(x);
  bits += 0x7fff + ((bits >> 16) & 1);
  *reinterpret_cast<Vector<uint16_t, N>*>(to) = __builtin_convertvector(bits >> 16, Vector<uint16_t, N>);
}

template <int N, class T>
inline void store_first(T* to, Floats<N> x, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (N == 16 && sizeof(T) == 4) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), x);
    return;
  }
#endif
  T all[N];
  store<N>(all, x);
  std::memcpy(to, all, count * sizeof(T));
}

// NaN stays NaN, here and in `at_most`.
template <int N>
inline Floats<N> at_least(Floats<N> x, float limit) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_max_ps(_mm512_set1_ps(limit), x);
#endif
#if defined(__AVX__)
  if constexpr (N == 8) return _mm256_max_ps(_mm256_set1_ps(limit), x);
#endif
  return x < limit ? Floats<N>{} + limit : x;
}

template <int N>
inline Floats<N> at_most(Floats<N> x, float limit) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_min_ps(_mm512_set1_ps(limit), x);
#endif
#if defined(__AVX__)
  if constexpr (N == 8) return _mm256_min_ps(_mm256_set1_ps(limit), x);
#endif
  return x > limit ? Floats<N>{} + limit : x;
}

template <int N>
inline Floats<N> between(Floats<N> x, float low, float high) {
  return at_most<N>(at_least<N>(x, low), high);
}

// e to the x: 2 to the nearest whole number of x / ln 2, times a polynomial of the rest (that of Cephes' expf, 2 ulp).
template <int N>
inline Floats<N> exponential(Floats<N> given) {
  const Floats<N> x = between<N>(given, -87.0f, 88.0f);
  const Floats<N> scaled = x * 1.44269504f;
  const Ints<N> whole =
      __builtin_convertvector(scaled + (scaled < 0 ? Floats<N>{} - 0.5f : Floats<N>{} + 0.5f), Ints<N>);
  const Floats<N> times = __builtin_convertvector(whole, Floats<N>);
  const Floats<N> rest = x - times * 0.693359375f + times * 2.12194440e-4f;
  Floats<N> sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  return given == given ? sum * same_bits<Floats<N>>((whole + 127) << 23) : given;
}

template <int N>
inline Floats<N> absolute(Floats<N> x) {
  return same_bits<Floats<N>>(same_bits<Ints<N>>(x) & 0x7fffffff);
}

// x * P(z < x) for normally distributed z: max(x, 0) - |x| * P(z > |x|). That probability is a polynomial, fitted to
// 3e-9 over |x| from 0 to 5.5; beyond it is taken as what it is there, 2e-8. Rounding makes it 1.5e-7 of the result at
// most.
template <int N>
inline Floats<N> gelu(Floats<N> x) {
  const Floats<N> size = at_most<N>(absolute<N>(x), 5.5f);
  const Floats<N> at = size * (2.0f / 5.5f) - 1.0f;
  constexpr float PARTS[] = {-0.00133195531f, 0.00245367782f, 0.0066074864f,  -0.0173537694f, -0.00710962713f,
                             0.0525097288f,   -0.0319587439f, -0.0709728971f, 0.127607703f,   -0.0230300911f,
                             -0.161734715f,   0.214853063f,   -0.0515008047f, -0.176605985f,  0.271881908f,
                             -0.206846416f,   0.0945589915f,  -0.0250073131f, 0.00297976262f};
  Floats<N> beyond = Floats<N>{} + PARTS[0];
#pragma GCC unroll 32
  for (size_t i = 1; i < sizeof PARTS / sizeof *PARTS; ++i) beyond = beyond * at + PARTS[i];
  return at_least<N>(x, 0.0f) - size * beyond;
}

enum class Activation : int64_t { none, relu, hardswish, swish, sigmoid, gelu };

// What is done to a result: an activation, then scale * y + shift.
struct Tail {
  Activation activation;
  float scale, shift;
  // Hardswish with the scale in it: y * slope + middle, kept between low and high, times y.
  float slope, middle, low, high;

  Tail() : Tail(Activation::none, 1.0f, 0.0f) {}
  Tail(Activation activation, float scale, float shift)
      : activation(activation),
        scale(scale),
        shift(shift),
        slope(scale / 6.0f),
        middle(scale / 2.0f),
        low(scale < 0.0f ? scale : 0.0f),
        high(scale < 0.0f ? 0.0f : scale) {}
};

template <int COUNT, int N>
__attribute__((always_inline)) inline void finish(Floats<N>* y, const Tail& tail) {
  switch (tail.activation) {
    case Activation::hardswish:
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i)
        y[i] = y[i] * between<N>(y[i] * tail.slope + tail.middle, tail.low, tail.high) + tail.shift;
      return;
    case Activation::relu:
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) y[i] = at_least<N>(y[i], 0.0f);
      break;
    case Activation::swish:
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) y[i] = y[i] / (1.0f + exponential<N>(-y[i]));
      break;
    case Activation::sigmoid:
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) y[i] = 1.0f / (1.0f + exponential<N>(-y[i]));
      break;
    case Activation::gelu:
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) y[i] = gelu<N>(y[i]);
      break;
    case Activation::none:
      break;
  }
  if (tail.scale == 1.0f && tail.shift == 0.0f) return;
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; ++i) y[i] = y[i] * tail.scale + tail.shift;
}

}  // namespace paddle2torch
