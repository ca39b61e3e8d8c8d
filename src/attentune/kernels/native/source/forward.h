// Forward: o_i = sum over visible j of w(s_ij) v_j, one group of query tiles at a time, with online softmax.
#pragma once
#include "steps.h"
#include <cstdio>

namespace ISA {

// The query tiles that one unit of work holds at once, so that a tile of keys is read once for all of them.
struct Unit {
    int64_t b, g, head, heads, tile, tiles;
};

// Cuts the work of a call into units: heads of one group next to each other, long rows first.
struct Units {
    int64_t heads_each, tiles_each, head_chunks, tile_chunks, query_tiles, count;

    Units(const Problem &p, int most) {
        query_tiles = ISA::tiles(p.queries);
        int64_t group = p.heads / p.groups;
        heads_each = group < most ? group : most;
        head_chunks = (group + heads_each - 1) / heads_each;
        tiles_each = most / heads_each;
        auto chunks = [&] { return (query_tiles + tiles_each - 1) / tiles_each; };
        while (tiles_each > 1 && p.batch * p.groups * head_chunks * chunks() < 4 * p.threads) tiles_each--;
        tile_chunks = chunks();
        count = p.batch * p.groups * head_chunks * tile_chunks;
    }
    // Heads of the same tokens follow each other: their keys and values lie side by side in memory.
    Unit at(const Problem &p, int64_t n) const {
        const int64_t group = p.heads / p.groups, head = n % head_chunks * heads_each, g = n / head_chunks % p.groups;
        const int64_t tile = tile_chunks - 1 - n / (head_chunks * p.groups) % tile_chunks;
        Unit unit{n / (head_chunks * p.groups * tile_chunks), g, 0, 0, tile * tiles_each, 0};
        unit.head = unit.g * group + head;
        unit.heads = group - head < heads_each ? group - head : heads_each;
        unit.tiles = query_tiles - unit.tile < tiles_each ? query_tiles - unit.tile : tiles_each;
        return unit;
    }
};

// Walks the key tiles that several query tiles see, in ascending order.
struct Walk {
    static constexpr int MOST = 16;
    int64_t at[MOST], end[MOST];
    int count;
    const Problem &p;

    Walk(const Problem &p, int64_t b, int64_t tile, int64_t tiles) : count(int(tiles)), p(p) {
        const int32_t *start = p.start + (p.table_rows > 1 ? b : 0) * (ISA::tiles(p.queries) + 1) + tile;
        for (int n = 0; n < count; n++) at[n] = start[n], end[n] = start[n + 1];
    }
    int64_t next() const { // the lowest key tile that is left, -1 at the end
        int64_t low = -1;
        for (int n = 0; n < count; n++)
            if (at[n] < end[n] && (low < 0 || p.key_tile[at[n]] < low)) low = p.key_tile[at[n]];
        return low;
    }
    bool takes(int n, int64_t tile) const { return at[n] < end[n] && p.key_tile[at[n]] == tile; }
};

// What is held of one query tile.
template <class T> struct Held {
    T *columns, *sum, *highest, *total; // q^T [D][TILE] times scale, o [TILE][padded], and per query the online softmax
};

template <class T> INLINE Mask<T> seen(const Sight &sight, int j, int v) { return lanes_of<T>(sight.key[j] >> (v * LANES<T>)); }

// The keys [low, high) that the queries of one vector see at all.
template <class T> static void visible_keys(const Sight &sight, int v, int &low, int &high) {
    sight.of_query.block(v * LANES<T>, LANES<T>, low, high);
    if (low > high) low = high = 0;
}

// The same, and the rest of what the sum over keys reads set to 0.
template <class T> static void clear_outside(const Sight &sight, int v, T *s, int &low, int &high) {
    low = 0, high = TILE;
    if (sight.whole) return;
    visible_keys<T>(sight, v, low, high);
    for (int j = sight.first_key; j < sight.end_key; j++)
        if (j < low || j >= high) store(s + j * TILE + v * LANES<T>, Vector<T>{});
}

// Online softmax of one tile: s becomes p = exp(s - highest); what was summed under an older maximum is scaled down.
template <class T, bool WHOLE>
static void soften(const Sight &sight, const Place &place, const Dropout<T> &dropout, T *s, const Held<T> &held, int padded) {
    constexpr int L = LANES<T>;
    const Vector<T> nothing = fill(T(-INFINITY));
    for (int v = 0; v * L < place.queries; v++) {
        int low, high;
        clear_outside(sight, v, s, low, high);
        auto score = [&](int j) {
            Vector<T> x = load(s + j * TILE + v * L);
            return WHOLE ? x : (seen<T>(sight, j, v) ? x : nothing);
        };
        Vector<T> before = load(held.highest + v * L), top = before, more[4] = {before, before, before, before};
        int j = low;
        for (; j + 4 <= high; j += 4)
            for (int n = 0; n < 4; n++) more[n] = larger<T>(score(j + n), more[n]);
        for (; j < high; j++) more[0] = larger<T>(score(j), more[0]);
        top = larger<T>(larger<T>(more[0], more[1]), larger<T>(more[2], more[3]));
        Vector<T> sum = load(held.total + v * L);
        if (any<T>(top > before)) {
            Vector<T> shrink = (top > before) ? exponential(before - top) : fill(T(1));
            sum *= shrink;
            store(held.highest + v * L, top);
            T by[L];
            store(by, shrink);
            for (uint32_t left = bits_of<T>((top > before) & (before != nothing)); left; left &= left - 1) {
                const int lane = __builtin_ctz(left);
                for (int d = 0; d < padded; d += L) {
                    T *o = held.sum + (v * L + lane) * padded + d;
                    store(o, load(o) * by[lane]);
                }
            }
        }
        top = (Mask<T>)(top == nothing) ? Vector<T>{} : top;
        Bits<T> rows{};
        if (dropout.on) rows = dropout.rows(place.query + v * L);
        for (j = low; j < high; j++) {
            Vector<T> x = exponential(score(j) - top);
            sum += x;
            if (dropout.on) x *= dropout.factor(rows, place.key + j);
            store(s + j * TILE + v * L, x);
        }
        store(held.total + v * L, sum);
    }
}

// Weights that stand alone: sigmoid(s), relu(s)^2.
template <class T>
static void weigh(const Problem &p, const Sight &sight, const Place &place, const Dropout<T> &dropout, T *s) {
    constexpr int L = LANES<T>;
    for (int v = 0; v * L < place.queries; v++) {
        int low, high;
        clear_outside(sight, v, s, low, high);
        Bits<T> rows{};
        if (dropout.on) rows = dropout.rows(place.query + v * L);
        for (int j = low; j < high; j++) {
            Vector<T> x = load(s + j * TILE + v * L), w;
            if (p.kind == SIGMOID) w = logistic<T>(x);
            else w = x < 0 ? Vector<T>{} : x * x;
            if (!sight.whole) w = seen<T>(sight, j, v) ? w : Vector<T>{};
            if (dropout.on) w *= dropout.factor(rows, place.key + j);
            store(s + j * TILE + v * L, w);
        }
    }
}

template <class T>
static void write_output(const Problem &p, const Unit &unit, int64_t head, int64_t tile, const Held<T> &held, int padded) {
    int64_t first = tile * TILE;
    T *lse = at<T>(p.lse, unit.b, head, first);
    for (int i = 0; i < in_tile(first, p.queries); i++) {
        T inverse = 1, total = held.total[i], highest = held.highest[i];
        if (p.kind == SOFTMAX) {
            lse[i] = total == 0 ? T(-INFINITY) : highest + std::log(total);
            if (p.extra_logit && total != 0) total += std::exp(static_cast<const T *>(p.extra_logit)[head] - highest);
            inverse = total == 0 ? T(0) : 1 / total;
        }
        T *to = at<T>(p.output, unit.b, head, first + i);
        const T *from = held.sum + i * padded;
        for (int64_t d = 0; d < p.value_width; d++) to[d] = from[d] * inverse;
    }
}

INLINE int rounded(int64_t width, int lanes) { return int((width + lanes - 1) / lanes * lanes); }

// Asks for one key and value, which are read later.
template <class T> INLINE void fetch_row(const Problem &p, int64_t b, int64_t g, int64_t j) {
    constexpr int LINE = 64 / sizeof(T);
    if (j >= p.keys) return;
    for (int64_t d = 0; d < p.head_width; d += LINE) __builtin_prefetch(at<T>(p.k, b, g, j) + d, 0, 2);
    for (int64_t d = 0; d < p.value_width; d += LINE) __builtin_prefetch(at<T>(p.v, b, g, j) + d, 0, 2);
}

// Asks for the tile that most likely follows, while this one is computed.
template <class T> static void fetch_ahead(const Problem &p, int64_t b, int64_t g, int64_t first) {
    for (int64_t j = first; j < first + TILE; j++) fetch_row<T>(p, b, g, j);
}

template <class T>
static bool forward_unit(const Problem &p, const Unit &unit) {
    const int D = int(p.head_width), V = int(p.value_width), padded = rounded(V, LANES<T>);
    const int64_t slots = unit.heads * unit.tiles, each = (D + padded + 2) * TILE;
    T *memory = scratch().reserve<T>(size_t(slots * each + (TILE + D + padded) * TILE) + sizeof(StepTile<T>) / sizeof(T) + 64);
    if (!memory) return false;
    T *s = memory, *values = s + TILE * TILE, *keys = values + TILE * padded, *rest = keys + TILE * D;
    StepTile<T> &steps = *reinterpret_cast<StepTile<T> *>(rest + slots * each);
    Held<T> held[Walk::MOST];
    for (int n = 0; n < slots; n++) {
        int64_t first = (unit.tile + n % unit.tiles) * TILE;
        T *from = rest + n * each;
        held[n] = {from, from + D * TILE, from + (D + padded) * TILE, from + (D + padded + 1) * TILE};
        gather_columns(at<T>(p.q, unit.b, unit.head + n / unit.tiles, first), p.q.token, in_tile(first, p.queries), D,
                       T(p.scale), held[n].columns);
        std::memset(held[n].sum, 0, sizeof(T) * size_t(padded + 2) * TILE);
        for (int i = 0; i < TILE; i++) held[n].highest[i] = T(-INFINITY);
    }
    Walk walk(p, unit.b, unit.tile, unit.tiles);
    Sights sights;
    for (int64_t tile; (tile = walk.next()) >= 0;) {
        Place place{unit.b, 0, 0, tile * TILE, 0, in_tile(tile * TILE, p.keys)};
        gather_rows(at<T>(p.k, unit.b, unit.g, place.key), p.k.token, place.keys, D, D, keys);
        gather_rows(at<T>(p.v, unit.b, unit.g, place.key), p.v.token, place.keys, V, padded, values);
        fetch_ahead<T>(p, unit.b, unit.g, place.key + TILE);
        for (int t = 0; t < unit.tiles; t++) {
            if (!walk.takes(t, tile)) continue;
            const Sight &sight = sights.of(p.pattern[walk.at[t]++], p.patterns);
            place.query = (unit.tile + t) * TILE, place.queries = in_tile(place.query, p.queries);
            for (int64_t head = 0; head < unit.heads; head++) {
                const Held<T> &here = held[head * unit.tiles + t];
                place.h = unit.head + head;
                scores_product(sight, place.keys, D, keys, D, here.columns, s);
                apply_steps<T>(p, place, steps, s, nullptr);
                Dropout<T> dropout(p, place.b, place.h);
                if (p.kind != SOFTMAX) weigh(p, sight, place, dropout, s);
                else if (sight.whole) soften<T, true>(sight, place, dropout, s, here, padded);
                else soften<T, false>(sight, place, dropout, s, here, padded);
                sum_product<T, 1, TILE>(sight, place.queries, s, values, padded, here.sum, padded);
            }
        }
    }
    for (int n = 0; n < slots; n++) write_output(p, unit, unit.head + n / unit.tiles, unit.tile + n % unit.tiles, held[n], padded);
    return true;
}

template <class T> static int forward(const Problem &p) {
    Units units(p, 8);
    bool good = true;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(p.threads)) reduction(&& : good)
    for (int64_t n = 0; n < units.count; n++) good = forward_unit<T>(p, units.at(p, n)) && good;
    return good ? DONE : OUT_OF_MEMORY;
}

} // namespace ISA
