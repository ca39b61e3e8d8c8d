// Vectors of one instruction set: GCC's vector extension, so that one source serves every machine.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define INLINE inline __attribute__((always_inline))

namespace ISA {

template <class T> struct Lane;
template <> struct Lane<float> {
    typedef float Numbers __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t Mask __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    using Word = uint32_t;
};
template <> struct Lane<double> {
    typedef double Numbers __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t Mask __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    using Word = uint64_t;
};
template <class T> using Vector = typename Lane<T>::Numbers;
template <class T> using Mask = typename Lane<T>::Mask;
template <class T> using Bits = typename Lane<T>::Bits;
template <class T> constexpr int LANES = VECTOR_BYTES / int(sizeof(T));

template <class T> INLINE Vector<T> load(const T *from) {
    Vector<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class T> INLINE void store(T *to, Vector<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T> INLINE Vector<T> fill(T x) { return x - Vector<T>{}; } // x - 0 is x, for -0 and NaN too

template <class T> INLINE Vector<T> larger(Vector<T> a, Vector<T> b) { return a > b ? a : b; } // b where a is NaN
template <class T> INLINE T sum_of(Vector<T> v) { // by halves
    T part[LANES<T>];
    store(part, v);
    for (int half = LANES<T> / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) part[lane] += part[lane + half];
    return part[0];
}
#if defined(__AVX512F__)
template <> INLINE float sum_of<float>(Vector<float> v) { return _mm512_reduce_add_ps((__m512)v); }
template <> INLINE double sum_of<double>(Vector<double> v) { return _mm512_reduce_add_pd((__m512d)v); }
#endif
template <class T> INLINE bool any(Mask<T> mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
    for (int lane = 0; lane < LANES<T>; lane++)
        if (mask[lane]) return true;
    return false;
#endif
}

// Bit n is set where lane n is true.
template <class T> INLINE uint32_t bits_of(Mask<T> mask) {
#if defined(__AVX512F__)
    if (sizeof(T) == 4) return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask);
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES<T>; lane++) bits |= uint32_t(mask[lane] != 0) << lane;
    return bits;
#endif
}

// Lane n is true where bit n of `word` is set.
template <class T> INLINE Mask<T> lanes_of(uint64_t word) {
    Bits<T> bit;
    for (int lane = 0; lane < LANES<T>; lane++) bit[lane] = typename Lane<T>::Word(1) << lane;
    return (Mask<T>)(((typename Lane<T>::Word(word) - Bits<T>{}) & bit) != 0);
}

// exp(x) for x <= 88: n = round(x / ln 2), r = x - n ln 2, a minimax polynomial of degree 6 in r (relative error 1e-8),
// times 2^n. Exactly 0 below -87.3, so that no denormal numbers arise; NaN stays NaN.
INLINE Vector<float> exponential(Vector<float> x) {
    using V = Vector<float>;
    const float lowest = -87.33654f;
    V t = x * 1.44269504089f;
#if defined(__AVX512F__)
    V n = (V)_mm512_roundscale_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    V shifted = t + 12582912.0f;
    V n = shifted - 12582912.0f;
#endif
    V r = x - n * 0.693147182465f;
    V y = r * 1.392618359e-3f + 8.363179053e-3f;
    y = y * r + 4.166655462e-2f;
    y = y * r + 1.666657699e-1f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
#if defined(__AVX512F__)
    __mmask16 there = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(lowest), _CMP_NLT_UQ);
    return (V)_mm512_maskz_scalef_ps(there, (__m512)y, (__m512)n);
#else
    Bits<float> power = ((Bits<float>)shifted - 0x4B400000u + 127u) << 23;
    return x < lowest ? V{} : y * (V)power;
#endif
}
INLINE Vector<double> exponential(Vector<double> x) {
    for (int lane = 0; lane < LANES<double>; lane++) x[lane] = std::exp(x[lane]);
    return x;
}

// log(1 + u) for 0 <= u <= 1: 2 artanh(z) with z = u / (2 + u), an odd polynomial.
INLINE Vector<float> log_one_plus(Vector<float> u) {
    Vector<float> z = u / (u + 2.0f), w = z * z;
    Vector<float> y = w * 1.34260136465e-1f + 1.41182733288e-1f;
    y = y * w + 2.00037815326e-1f;
    y = y * w + 3.33333201628e-1f;
    return (y * w) * (z + z) + (z + z);
}
INLINE Vector<double> log_one_plus(Vector<double> u) {
    for (int lane = 0; lane < LANES<double>; lane++) u[lane] = std::log1p(u[lane]);
    return u;
}

// log(x) for 1 <= x < infinity: the exponent, and the logarithm of what is left; NaN stays NaN.
INLINE Vector<float> logarithm(Vector<float> x) {
    using V = Vector<float>;
    const Bits<float> bits = (Bits<float>)x;
    const V whole = __builtin_convertvector((Mask<float>)(bits >> 23) - 127, V);
    const V left = (V)((bits & 0x7FFFFFu) | 0x3F800000u);
    const V y = log_one_plus(left - 1.0f) + whole * 0.69314718056f;
    return x != x ? x : y;
}
INLINE Vector<double> logarithm(Vector<double> x) {
    for (int lane = 0; lane < LANES<double>; lane++) x[lane] = std::log(x[lane]);
    return x;
}

// tanh: x + x^3 P(x^2) near 0, where 1 - exp would cancel; (1 - e) / (1 + e) with e = exp(-2 |x|) elsewhere.
INLINE Vector<float> tangent(Vector<float> x) {
    Vector<float> size = x < 0 ? -x : x, square = x * x;
    Vector<float> e = exponential(size * -2.0f);
    Vector<float> far = (1.0f - e) / (1.0f + e);
    Vector<float> near = square * -5.70498872745e-3f + 2.06390887954e-2f;
    near = near * square - 5.37397155531e-2f;
    near = near * square + 1.33314422036e-1f;
    near = near * square - 3.33332819422e-1f;
    near = near * square * x + x;
    return size < 0.625f ? near : (x < 0 ? -far : far);
}
INLINE Vector<double> tangent(Vector<double> x) {
    for (int lane = 0; lane < LANES<double>; lane++) x[lane] = std::tanh(x[lane]);
    return x;
}

} // namespace ISA
