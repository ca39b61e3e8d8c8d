// Where a tile stands, and the dropout that belongs to each pair of a query and a key.
#pragma once
#include "problem.h"
#include "tiles.h"

namespace ISA {

struct Place {
    int64_t b, h, query, key; // query, key: the tile's first
    int queries, keys;        // of the tile, at most TILE
};

template <class T> INLINE T *at(const Operand &x, int64_t b, int64_t h, int64_t t) {
    return static_cast<T *>(x.data) + b * x.batch + h * x.head + t * x.token;
}
// Lanes of whole vectors that hold the tile's queries; the others are not computed.
template <class T> INLINE int lanes(const Place &at) { return (at.queries + LANES<T> - 1) / LANES<T> * LANES<T>; }
INLINE int in_tile(int64_t first, int64_t length) { return int(length - first < TILE ? length - first : TILE); }
INLINE int64_t tiles(int64_t length) { return (length + TILE - 1) / TILE; }

INLINE uint64_t mixed64(uint64_t x) { // splitmix64
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}
template <class W> INLINE W mixed32(W x) { // lowbias32, in lanes of 32 or 64 bits
    const uint32_t whole = 0xFFFFFFFFu;
    x = ((x ^ (x >> 16)) * 0x7FEB352Du) & whole;
    x = ((x ^ (x >> 15)) * 0x846CA68Bu) & whole;
    return x ^ (x >> 16);
}

// keep(b, h, i, j), a pure function of the seed and four numbers: the same forward and backward, in any order.
template <class T> struct Dropout {
    bool on;
    T scale;
    uint32_t threshold, low, high;

    Dropout(const Problem &p, int64_t b, int64_t h) : on(p.dropout > 0), scale(0), threshold(0), low(0), high(0) {
        if (!on) return;
        uint64_t word = mixed64(mixed64(p.seed) + uint64_t(b * p.heads + h));
        low = uint32_t(word), high = uint32_t(word >> 32);
        scale = p.dropout < 1 ? T(1 / (1 - p.dropout)) : T(0);
        threshold = p.dropout < 1 ? uint32_t(p.dropout * 4294967296.0) : 0xFFFFFFFFu;
    }
    Bits<T> rows(int64_t query) const { // the queries of one vector
        Bits<T> i;
        for (int lane = 0; lane < LANES<T>; lane++) i[lane] = uint32_t(query + lane) * 0x9E3779B1u ^ low;
        return (mixed32(i) + high) & 0xFFFFFFFFu;
    }
    // 0 where dropped, 1 / (1 - rate) where kept
    Vector<T> factor(Bits<T> rows, int64_t key) const {
        Bits<T> x = mixed32(rows ^ (uint32_t(key) * 0x85EBCA77u));
        return (Mask<T>)(x >= typename Lane<T>::Word(threshold)) ? fill(scale) : Vector<T>{};
    }
};

} // namespace ISA
