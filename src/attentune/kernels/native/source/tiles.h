// Tiles of 64 queries x 64 keys: what is visible of one, and the copies that the products read.
#pragma once
#include "product.h"
#include <cstdlib>

namespace ISA {

constexpr int TILE = 64;

// The rows of a tile's matrix that hold anything, [first, end), for each row of one side.
struct Ranges {
    uint8_t first[TILE], end[TILE];

    void read(const uint64_t *words) {
        for (int n = 0; n < TILE; n++) {
            first[n] = words[n] ? uint8_t(__builtin_ctzll(words[n])) : TILE;
            end[n] = words[n] ? uint8_t(64 - __builtin_clzll(words[n])) : 0;
        }
    }
    void block(int from, int rows, int &low, int &high) const { // union over some rows
        low = TILE, high = 0;
        for (int n = from; n < from + rows; n++) {
            if (first[n] < low) low = first[n];
            if (end[n] > high) high = end[n];
        }
    }
};

INLINE void transpose_bits(const uint64_t *from, uint64_t *to) { // Hacker's Delight, 7-3
    std::memcpy(to, from, 64 * sizeof(uint64_t));
    uint64_t mask = 0x00000000FFFFFFFFull;
    for (int j = 32; j; j >>= 1, mask ^= mask << j)
        for (int k = 0; k < 64; k = (k + j + 1) & ~j) {
            uint64_t swapped = ((to[k] >> j) ^ to[k + j]) & mask;
            to[k] ^= swapped << j;
            to[k + j] ^= swapped;
        }
}

// What a tile shows: bit j of query[i], and bit i of key[j], are set where query i sees key j.
struct Sight {
    int32_t pattern = -2;
    bool whole = false;
    uint64_t query[TILE], key[TILE];
    Ranges of_query, of_key;
    int first_key = 0, end_key = TILE, first_query = 0, end_query = TILE;

    void read(int32_t pattern, const uint64_t *patterns) {
        this->pattern = pattern;
        whole = pattern < 0;
        if (whole) {
            first_key = first_query = 0, end_key = end_query = TILE;
            return;
        }
        std::memcpy(query, patterns + int64_t(pattern) * TILE, sizeof query);
        transpose_bits(query, key);
        of_query.read(query);
        of_key.read(key);
        of_query.block(0, TILE, first_key, end_key);
        of_key.block(0, TILE, first_query, end_query);
    }
};

// The sights of one unit of work: windows and documents have few patterns, which are read once.
struct Sights {
    static constexpr int KEPT = 8;
    Sight whole, kept[KEPT];

    Sights() { whole.read(-1, nullptr); }
    const Sight &of(int32_t pattern, const uint64_t *patterns) {
        if (pattern < 0) return whole;
        Sight &here = kept[pattern % KEPT];
        if (here.pattern != pattern) here.read(pattern, patterns);
        return here;
    }
};

// Copies [rows x width] into rows of `padded` numbers, the rest of each row 0.
template <class T> static void gather_rows(const T *from, int64_t token, int rows, int width, int padded, T *to) {
    for (int r = 0; r < rows; r++, from += token, to += padded) {
        std::memcpy(to, from, sizeof(T) * size_t(width));
        for (int d = width; d < padded; d++) to[d] = 0;
    }
}

// to[c][r] = from[r][c] for a square of one vector's lanes: 4 rounds that exchange ever larger pieces.
#if defined(__AVX512F__)
INLINE void transpose_square(const float *from, int64_t from_row, float scale, float *to, int64_t to_row) {
    __m512 a[16], b[16];
    const __m512 factor = _mm512_set1_ps(scale);
    for (int n = 0; n < 16; n++) a[n] = _mm512_mul_ps(_mm512_loadu_ps(from + n * from_row), factor);
    for (int n = 0; n < 16; n += 2) {
        b[n] = _mm512_unpacklo_ps(a[n], a[n + 1]);
        b[n + 1] = _mm512_unpackhi_ps(a[n], a[n + 1]);
    }
    for (int n = 0; n < 16; n += 4)
        for (int m = 0; m < 2; m++) {
            a[n + 2 * m] = (__m512)_mm512_unpacklo_pd((__m512d)b[n + m], (__m512d)b[n + m + 2]);
            a[n + 2 * m + 1] = (__m512)_mm512_unpackhi_pd((__m512d)b[n + m], (__m512d)b[n + m + 2]);
        }
    for (int n = 0; n < 16; n += 8)
        for (int m = 0; m < 4; m++) {
            b[n + m] = _mm512_shuffle_f32x4(a[n + m], a[n + m + 4], 0x88);
            b[n + m + 4] = _mm512_shuffle_f32x4(a[n + m], a[n + m + 4], 0xdd);
        }
    for (int m = 0; m < 8; m++) {
        _mm512_storeu_ps(to + m * to_row, _mm512_shuffle_f32x4(b[m], b[m + 8], 0x88));
        _mm512_storeu_ps(to + (m + 8) * to_row, _mm512_shuffle_f32x4(b[m], b[m + 8], 0xdd));
    }
}
constexpr bool SQUARES = true;
#else
INLINE void transpose_square(const float *, int64_t, float, float *, int64_t) {}
constexpr bool SQUARES = false;
#endif
INLINE void transpose_square(const double *, int64_t, double, double *, int64_t) {}

// Copies [rows x width] transposed, times `scale`, into [width][TILE]; columns past `rows` are 0.
template <class T>
static void gather_columns(const T *from, int64_t token, int rows, int width, T scale, T *to) {
    constexpr int L = LANES<T>;
    if (SQUARES && sizeof(T) == sizeof(float) && rows == TILE && width % L == 0) {
        for (int r = 0; r < TILE; r += L)
            for (int d = 0; d < width; d += L) transpose_square(from + r * token + d, token, scale, to + d * TILE + r, TILE);
        return;
    }
    for (int r0 = 0; r0 < TILE; r0 += 8)
        for (int d0 = 0; d0 < width; d0 += 8) {
            int d1 = d0 + 8 < width ? d0 + 8 : width;
            for (int r = r0; r < r0 + 8; r++)
                for (int d = d0; d < d1; d++) to[d * TILE + r] = r < rows ? from[r * token + d] * scale : T(0);
        }
}

template <class T> static bool finite(const T *from, int64_t row, int rows, int width) {
    Vector<T> bad{};
    for (int r = 0; r < rows; r++, from += row) {
        int d = 0;
        for (; d + LANES<T> <= width; d += LANES<T>) {
            Vector<T> x = load(from + d);
            bad += x * T(0); // NaN for NaN and for an infinity
        }
    }
    return sum_of<T>(bad) == 0;
}

// scores^T[keys x queries] = K Q^T, only what is visible. `a` holds keys, `b` the queries' columns [width][TILE].
template <class T>
static void scores_product(const Sight &sight, int keys, int width, const T *a, int64_t token, const T *b, T *s) {
    constexpr int L = LANES<T>;
    for (int r = sight.first_key / BLOCK_ROWS * BLOCK_ROWS; r < sight.end_key; r += BLOCK_ROWS) {
        int rows = keys - r < BLOCK_ROWS ? keys - r : BLOCK_ROWS, low = 0, high = TILE;
        if (!sight.whole) sight.of_key.block(r, rows, low, high);
        if (low >= high) continue;
        low = low / L * L;
        int vectors = (high - low + L - 1) / L;
        rows_of<T, false, 0, 1>(rows, vectors, width, a + r * token, token, 1, b + low, TILE, s + r * TILE + low, TILE);
    }
}

// C[i] += sum over visible j of A(i, j) B[j], without touching what is hidden: for tiles whose B is not finite, where
// 0 * NaN would spread to rows that do not see it.
template <class T>
static void careful_product(const uint64_t *visible, int rs, int cs, const T *a, const T *b, int width, T *c,
                            int64_t c_row) {
    for (int i = 0; i < TILE; i++)
        for (uint64_t left = visible[i]; left; left &= left - 1) {
            int j = __builtin_ctzll(left);
            for (int d = 0; d < width; d += LANES<T>)
                store(c + i * c_row + d, load(c + i * c_row + d) + load(b + j * width + d) * a[i * rs + j * cs]);
        }
}

// C[rows x width] += A B, the sum over what is visible; RS and CS are the strides of A in a tile: (1, TILE) for queries,
// (TILE, 1) for keys. B is contiguous with rows of `width`, a multiple of the lanes.
template <class T, int RS, int CS>
static void sum_product(const Sight &sight, int rows, const T *a, const T *b, int width, T *c, int64_t c_row) {
    const bool by_query = RS == 1;
    int inner_from = by_query ? sight.first_key : sight.first_query, inner_to = by_query ? sight.end_key : sight.end_query;
    if (!sight.whole && !finite(b + inner_from * width, width, inner_to - inner_from, width))
        return careful_product(by_query ? sight.query : sight.key, RS, CS, a, b, width, c, c_row);
    const Ranges &ranges = by_query ? sight.of_query : sight.of_key;
    for (int r = 0; r < rows; r += BLOCK_ROWS) {
        int here = rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS, low = 0, high = TILE;
        if (!sight.whole) ranges.block(r, here, low, high);
        if (low >= high) continue;
        rows_of<T, true, RS, CS>(here, width / LANES<T>, high - low, a + r * RS + low * CS, RS, CS, b + low * width, width,
                                 c + r * c_row, c_row);
    }
}

// Memory of one thread, kept between calls and grown when asked for more.
struct Scratch {
    char *block = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(block); }
    template <class T> T *reserve(size_t numbers) {
        size_t wanted = (numbers * sizeof(T) + 4095) / 4096 * 4096;
        if (wanted > size) {
            std::free(block);
            block = static_cast<char *>(std::aligned_alloc(4096, wanted));
            size = block ? wanted : 0;
        }
        return reinterpret_cast<T *>(block);
    }
};
INLINE Scratch &scratch() {
    static thread_local Scratch kept;
    return kept;
}

} // namespace ISA
