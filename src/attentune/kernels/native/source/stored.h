// Numbers as they lie in memory (the computing type itself, or bfloat16) and as they are computed with.
#pragma once
#include "tiles.h"

namespace ISA {

struct BFloat16 {
    uint16_t bits;
};

template <class T> INLINE void read_row(const T *__restrict from, int count, T scale, T *__restrict to) {
    for (int n = 0; n < count; n++) to[n] = from[n] * scale;
}
INLINE void read_row(const BFloat16 *__restrict from, int count, float scale, float *__restrict to) {
    for (int n = 0; n < count; n++) {
        const uint32_t bits = uint32_t(from[n].bits) << 16;
        float x;
        std::memcpy(&x, &bits, sizeof x);
        to[n] = x * scale;
    }
}

template <class T> INLINE void write_row(const T *__restrict from, int count, T scale, T *__restrict to) {
    for (int n = 0; n < count; n++) to[n] = from[n] * scale;
}
INLINE void write_row(const float *__restrict from, int count, float scale, BFloat16 *__restrict to) { // to the nearest, ties to even
    for (int n = 0; n < count; n++) {
        const float x = from[n] * scale;
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        const uint32_t nearest = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
        to[n].bits = uint16_t(x != x ? 0x7FC0u : nearest);
    }
}

// Copies [rows x width], times `scale`, into [all x padded]; what is beyond either is 0.
template <class S, class T>
static void read_rows(const S *from, int64_t token, int rows, int width, T scale, int all, int padded, T *to) {
    for (int r = 0; r < rows; r++, from += token, to += padded) {
        read_row(from, width, scale, to);
        for (int d = width; d < padded; d++) to[d] = 0;
    }
    std::memset(to, 0, sizeof(T) * size_t(all - rows) * size_t(padded));
}

// to[d][r] = from[r][d] of whole squares of lanes: `rows` and `padded` are multiples of them.
template <class T> static void to_columns(const T *from, int rows, int padded, int width, T *to) {
    constexpr int L = LANES<T>;
    if (SQUARES && sizeof(T) == sizeof(float)) {
        for (int r = 0; r < rows; r += L)
            for (int d = 0; d < padded; d += L) transpose_square(from + r * padded + d, padded, T(1), to + d * rows + r, rows);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < width; d++) to[d * rows + r] = from[r * padded + d];
}

} // namespace ISA
