// The one micro-kernel: C[rows x columns] (+)= A[rows x inner] B[inner x columns].
//
// A is read number by number and spread over the lanes, so that its strides are free (a transposed A costs nothing);
// rows of B and C are contiguous. A block of C stays in registers for the whole inner loop.
#pragma once
#include "vectors.h"

namespace ISA {

#if VECTOR_BYTES == 64
constexpr int BLOCK_ROWS = 8, BLOCK_VECTORS = 2; // 16 sums, 2 vectors of B; 6 x 4, 4 x 4, 12 x 2 are no faster
#else
constexpr int BLOCK_ROWS = 6, BLOCK_VECTORS = 2; // 12 sums: 16 registers
#endif

// RS and CS: the row and column stride of A where they are known beforehand, else 0.
template <class T, int ROWS, int VECTORS, bool ADD, int RS, int CS>
INLINE void block(int64_t inner, const T *a, int64_t rs, int64_t cs, const T *b, int64_t bs, T *c, int64_t c_row) {
    if (RS) rs = RS;
    if (CS) cs = CS;
    Vector<T> sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[r][v] = ADD ? load(c + r * c_row + v * LANES<T>) : Vector<T>{};
    for (int64_t n = 0; n < inner; n++, a += cs, b += bs) {
        Vector<T> row[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + v * LANES<T>);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            Vector<T> x = fill(a[r * rs]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[r][v] += x * row[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) store(c + r * c_row + v * LANES<T>, sum[r][v]);
}

template <class T, int ROWS, bool ADD, int RS, int CS>
static void columns(int vectors, int64_t inner, const T *a, int64_t rs, int64_t cs, const T *b, int64_t bs, T *c,
                    int64_t c_row) {
    int v = 0;
    for (; v + BLOCK_VECTORS <= vectors; v += BLOCK_VECTORS)
        block<T, ROWS, BLOCK_VECTORS, ADD, RS, CS>(inner, a, rs, cs, b + v * LANES<T>, bs, c + v * LANES<T>, c_row);
    for (; v < vectors; v++)
        block<T, ROWS, 1, ADD, RS, CS>(inner, a, rs, cs, b + v * LANES<T>, bs, c + v * LANES<T>, c_row);
}

// One block of at most BLOCK_ROWS rows.
template <class T, bool ADD, int RS, int CS>
static void rows_of(int rows, int vectors, int64_t inner, const T *a, int64_t rs, int64_t cs, const T *b, int64_t bs,
                    T *c, int64_t c_row) {
    if (rows == BLOCK_ROWS)
        return columns<T, BLOCK_ROWS, ADD, RS, CS>(vectors, inner, a, rs, cs, b, bs, c, c_row);
    if (RS) rs = RS;
    for (; rows >= 4; rows -= 4, a += 4 * rs, c += 4 * c_row)
        columns<T, 4, ADD, RS, CS>(vectors, inner, a, rs, cs, b, bs, c, c_row);
    for (; rows > 0; rows--, a += rs, c += c_row)
        columns<T, 1, ADD, RS, CS>(vectors, inner, a, rs, cs, b, bs, c, c_row);
}

} // namespace ISA
