// Backward, from what the forward pass kept (q, k, v, o, lse). With w = softmax(s) and dP = dO V^T:
//     dV = w^T dO      dS = w (dP - delta),  delta_i = sum over d of dO_i O_i      dQ = scale dS K      dK = scale dS^T Q
// Units of work own the keys of one batch row and group, so that nothing is added by two threads.
#pragma once
#include "forward.h"

namespace ISA {

// Of one query tile: transposed copies for the products with lanes of queries, plain ones for those with lanes of widths.
template <class T> struct HeldBack {
    T *q_columns, *d_columns, *q_rows, *d_rows, *dq, *lse, *delta;
};

// Where the gradients of keys and values are added up: in the results themselves, or in memory of the unit's own.
template <class T> struct Sums {
    T *dk, *dv;
    int64_t dk_token, dv_token, first_tile, end_tile; // key tiles; dk and dv point to the first
};

// The scores' tile s becomes the weights w (with dropout), and dp the gradient of the scores, 0 where hidden.
template <class T, bool WHOLE>
static void unweigh(const Problem &p, const Sight &sight, const Place &place, const Dropout<T> &dropout,
                    const HeldBack<T> &held, T scale, T *s, T *dp) {
    constexpr int L = LANES<T>;
    for (int v = 0; v < TILE / L; v++) {
        int low = 0, high = TILE;
        if (!WHOLE) {
            visible_keys<T>(sight, v, low, high);
            for (int j = 0; j < place.keys; j++)
                if (j < low || j >= high) store(s + j * TILE + v * L, Vector<T>{}), store(dp + j * TILE + v * L, Vector<T>{});
        }
        const Vector<T> lse = load(held.lse + v * L), delta = load(held.delta + v * L);
        Bits<T> rows{};
        if (dropout.on) rows = dropout.rows(place.query + v * L);
        for (int j = low; j < high; j++) {
            T *to = s + j * TILE + v * L, *d = dp + j * TILE + v * L;
            Vector<T> x = load(to), from = load(d), w, kept = fill(T(1));
            if (dropout.on) kept = dropout.factor(rows, place.key + j), from *= kept;
            if (p.kind == SOFTMAX) {
                w = exponential(x - lse);
                from = w * (from - delta);
            } else if (p.kind == SIGMOID) {
                w = logistic<T>(x);
                from = w * (1 - w) * from;
            } else {
                Vector<T> above = x < 0 ? Vector<T>{} : x;
                w = above * above;
                from = 2 * above * from;
            }
            if (dropout.on) w *= kept;
            from *= scale;
            if (!WHOLE) {
                Mask<T> visible = seen<T>(sight, j, v);
                w = visible ? w : Vector<T>{};
                from = visible ? from : Vector<T>{};
            }
            store(to, w);
            store(d, from);
        }
    }
}

template <class T>
static void hold_back(const Problem &p, int64_t b, int64_t g, int64_t h, int64_t tile, const HeldBack<T> &held, int D, int V,
                      T *o_columns) {
    const int64_t first = tile * TILE;
    const int count = in_tile(first, p.queries), width = int(p.head_width), value = int(p.value_width);
    const T *q = at<T>(p.q, b, h, first), *d = at<T>(p.d_output, b, h, first);
    gather_columns(q, p.q.token, count, width, T(p.scale), held.q_columns);
    gather_rows(q, p.q.token, count, width, D, held.q_rows);
    gather_columns(d, p.d_output.token, count, value, T(1), held.d_columns);
    gather_rows(d, p.d_output.token, count, value, V, held.d_rows);
    std::memset(held.dq, 0, sizeof(T) * size_t(D) * TILE);
    // Summed in the order of the product dP = dO V^T, so that dP - delta is exactly 0 where o is v.
    gather_columns(at<T>(p.output, b, h, first), p.output.token, count, value, T(1), o_columns);
    for (int i = 0; i < TILE; i += LANES<T>) {
        Vector<T> sum{};
        for (int n = 0; n < value; n++) sum += load(o_columns + n * TILE + i) * load(held.d_columns + n * TILE + i);
        store(held.delta + i, sum);
    }
    for (int i = 0; i < TILE; i++) {
        const T lse = i < count && p.kind == SOFTMAX ? at<T>(p.lse, b, h, first)[i] : T(-INFINITY);
        held.lse[i] = 0;
        if (lse == T(-INFINITY)) { // sees nothing: exp(-inf - 0) is 0
            held.delta[i] = 0;
            continue;
        }
        T total = lse;
        if (p.extra_logit) {
            T extra = static_cast<const T *>(p.extra_logit)[h], high = extra > lse ? extra : lse;
            total = high + std::log1p(std::exp((extra > lse ? lse : extra) - high));
        }
        if (p.d_lse.data) held.delta[i] -= at<T>(p.d_lse, b, h, first)[i] * std::exp(total - lse);
        held.lse[i] = total;
    }
}

// Query tiles [from, to) of all heads of one group.
template <class T>
static bool backward_unit(const Problem &p, int64_t b, int64_t g, int64_t row, int64_t from, int64_t to, const Sums<T> &sums) {
    const int D = rounded(p.head_width, LANES<T>), V = rounded(p.value_width, LANES<T>);
    const int width = int(p.head_width), value = int(p.value_width);
    const int64_t group = p.heads / p.groups, most = 4, heads_each = group < most ? group : most, tiles_each = most / heads_each;
    const int64_t each = (2 * D + width + V + value + 2) * TILE, tile_size = TILE * TILE;
    T *memory = scratch().reserve<T>(size_t(most * each + (3 + p.steps) * tile_size + (D + value) * TILE) + sizeof(StepTile<T>) / sizeof(T) + 64);
    if (!memory) return false;
    T *s = memory, *dp = s + tile_size, *spare = dp + tile_size, *saved = spare + tile_size, *keys = saved + p.steps * tile_size;
    T *o_columns = keys + D * TILE, *rest = o_columns + value * TILE;
    StepTile<T> &steps = *reinterpret_cast<StepTile<T> *>(rest + most * each);
    HeldBack<T> held[Walk::MOST];
    for (int n = 0; n < most; n++) {
        T *m = rest + n * each;
        held[n] = {m, m + width * TILE, m + (width + value) * TILE, m + (width + value + D) * TILE,
                   m + (width + value + D + V) * TILE, m + (width + value + 2 * D + V) * TILE,
                   m + (width + value + 2 * D + V + 1) * TILE};
    }
    Sights sights;
    for (int64_t head = g * group; head < (g + 1) * group; head += heads_each)
        for (int64_t first = from; first < to; first += tiles_each) {
            const int64_t heads = (g + 1) * group - head < heads_each ? (g + 1) * group - head : heads_each;
            const int64_t count = to - first < tiles_each ? to - first : tiles_each;
            for (int64_t n = 0; n < heads * count; n++)
                hold_back(p, b, g, head + n / count, first + n % count, held[n], D, V, o_columns);
            Walk walk(p, b, first, count);
            for (int64_t tile; (tile = walk.next()) >= 0;) {
                Place place{b, 0, 0, tile * TILE, 0, in_tile(tile * TILE, p.keys)};
                gather_rows(at<T>(p.k, b, g, place.key), p.k.token, place.keys, width, D, keys);
                const T *values = at<T>(p.v, b, g, place.key);
                fetch_ahead<T>(p, b, g, place.key + TILE);
                T *dk = sums.dk + (tile - sums.first_tile) * TILE * sums.dk_token;
                T *dv = sums.dv + (tile - sums.first_tile) * TILE * sums.dv_token;
                for (int64_t t = 0; t < count; t++) {
                    if (!walk.takes(int(t), tile)) continue;
                    const Sight &sight = sights.of(p.pattern[walk.at[t]++], p.patterns);
                    place.query = (first + t) * TILE, place.queries = in_tile(place.query, p.queries);
                    for (int64_t n = 0; n < heads; n++) {
                        const HeldBack<T> &here = held[n * count + t];
                        place.h = head + n;
                        scores_product(sight, place.keys, width, keys, D, here.q_columns, s);
                        apply_steps<T>(p, place, steps, s, saved);
                        scores_product(sight, place.keys, value, values, p.v.token, here.d_columns, dp);
                        Dropout<T> dropout(p, b, place.h);
                        const T scale = p.steps ? T(1) : T(p.scale);
                        if (sight.whole) unweigh<T, true>(p, sight, place, dropout, here, scale, s, dp);
                        else unweigh<T, false>(p, sight, place, dropout, here, scale, s, dp);
                        sum_product<T, TILE, 1>(sight, place.keys, s, here.d_rows, V, dv, sums.dv_token);
                        if (p.steps) {
                            undo_steps<T>(p, place, row, steps, dp, saved, spare);
                            for (int x = 0; x < place.keys * TILE; x += LANES<T>) store(dp + x, load(dp + x) * T(p.scale));
                        }
                        sum_product<T, TILE, 1>(sight, place.keys, dp, here.q_rows, D, dk, sums.dk_token);
                        sum_product<T, 1, TILE>(sight, place.queries, dp, keys, D, here.dq, D);
                    }
                }
            }
            for (int64_t n = 0; n < heads * count; n++) {
                int64_t query = (first + n % count) * TILE;
                for (int i = 0; i < in_tile(query, p.queries); i++)
                    std::memcpy(at<T>(p.dq, b, head + n / count, query + i), held[n].dq + i * D, sizeof(T) * size_t(width));
            }
        }
    return true;
}

template <class T> static void clear_rows(const Operand &x, int64_t b, int64_t g, int64_t tokens, int64_t width) {
    for (int64_t t = 0; t < tokens; t++) std::memset(at<T>(x, b, g, t), 0, sizeof(T) * size_t(width));
}

template <class T> static int backward(const Problem &p) {
    const int D = rounded(p.head_width, LANES<T>), V = rounded(p.value_width, LANES<T>);
    const int64_t rows = p.batch * p.groups, segments = p.segments, query_tiles = tiles(p.queries), key_tiles = tiles(p.keys);
    const bool in_place = D == p.head_width && V == p.value_width;
    const int64_t count = rows * segments;
    Sums<T> *sums = static_cast<Sums<T> *>(std::calloc(size_t(count) + 1, sizeof(Sums<T>)));
    if (!sums) return OUT_OF_MEMORY;
    int64_t total = 0; // numbers of private memory; each unit's is only as long as the keys that its queries see
    auto part = [&](int64_t n) { return query_tiles * n / segments; };
    for (int64_t n = 0; n < count; n++) {
        const int64_t b = n / segments / p.groups, segment = n % segments;
        const int32_t *start = p.start + (p.table_rows > 1 ? b : 0) * (query_tiles + 1);
        Sums<T> &own = sums[n];
        own.first_tile = key_tiles, own.end_tile = 0;
        for (int64_t i = part(segment); i < part(segment + 1); i++) {
            if (start[i] == start[i + 1]) continue;
            if (p.key_tile[start[i]] < own.first_tile) own.first_tile = p.key_tile[start[i]];
            if (p.key_tile[start[i + 1] - 1] >= own.end_tile) own.end_tile = p.key_tile[start[i + 1] - 1] + 1;
        }
        own.dk_token = D, own.dv_token = V;
        if (own.end_tile > own.first_tile && !(in_place && segment == 0))
            total += (own.end_tile - own.first_tile) * TILE * (D + V);
    }
    T *memory = total ? static_cast<T *>(std::aligned_alloc(4096, (size_t(total) * sizeof(T) + 4095) / 4096 * 4096)) : nullptr;
    if (total && !memory) {
        std::free(sums);
        return OUT_OF_MEMORY;
    }
    T *next = memory;
    for (int64_t n = 0; n < count; n++) {
        Sums<T> &own = sums[n];
        const int64_t b = n / segments / p.groups, g = n / segments % p.groups;
        if (in_place && n % segments == 0) {
            own = {at<T>(p.dk, b, g, 0), at<T>(p.dv, b, g, 0), p.dk.token, p.dv.token, 0, key_tiles};
        } else if (own.end_tile > own.first_tile) {
            own.dk = next, next += (own.end_tile - own.first_tile) * TILE * D;
            own.dv = next, next += (own.end_tile - own.first_tile) * TILE * V;
        }
    }
    bool good = true;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(p.threads)) reduction(&& : good)
    for (int64_t n = 0; n < count; n++) {
        const Sums<T> &own = sums[n];
        const int64_t b = n / segments / p.groups, g = n / segments % p.groups, segment = n % segments;
        if (segment == 0) clear_rows<T>(p.dk, b, g, p.keys, p.head_width), clear_rows<T>(p.dv, b, g, p.keys, p.value_width);
        if (!(in_place && segment == 0) && own.dk)
            std::memset(own.dk, 0, sizeof(T) * size_t(own.end_tile - own.first_tile) * TILE * size_t(D + V));
        good = backward_unit<T>(p, b, g, b * segments + segment, part(segment), part(segment + 1), own) && good;
    }
    if (total) {
#pragma omp parallel for schedule(static) collapse(2) num_threads(int(p.threads))
        for (int64_t row = 0; row < rows; row++)
            for (int64_t tile = 0; tile < key_tiles; tile++)
                for (int64_t segment = in_place ? 1 : 0; segment < segments; segment++) {
                    const Sums<T> &own = sums[row * segments + segment];
                    if (!own.dk || tile < own.first_tile || tile >= own.end_tile) continue;
                    for (int j = 0; j < in_tile(tile * TILE, p.keys); j++) {
                        const int64_t b = row / p.groups, g = row % p.groups, place = (tile - own.first_tile) * TILE + j;
                        T *dk = at<T>(p.dk, b, g, tile * TILE + j), *dv = at<T>(p.dv, b, g, tile * TILE + j);
                        for (int64_t d = 0; d < p.head_width; d++) dk[d] += own.dk[place * D + d];
                        for (int64_t d = 0; d < p.value_width; d++) dv[d] += own.dv[place * V + d];
                    }
                }
    }
    std::free(memory);
    std::free(sums);
    return good ? DONE : OUT_OF_MEMORY;
}

} // namespace ISA
