// Rows that fit one tile, as sentences do: no walk over tiles and no running maximum. What is computed is bounded by the
// queries and keys that are there, and tensors are read and written where they are, in 16 bits too.
#pragma once
#include "backward.h"
#include "stored.h"

namespace ISA {

INLINE bool is_short(const Problem &p) { return p.queries <= TILE && p.keys <= TILE; }
INLINE int rounded4(int count) { return (count + 3) / 4 * 4; } // blocks of fewer rows wait for their own sums

// What a row of the batch shows. Where it is a box, as without padding in between and with a mask that shows everything,
// nothing need be hidden inside of it.
struct Shown {
    const Sight *sight = nullptr; // null: nothing is seen
    int queries = 0, keys = 0;    // the end of those that see, and of those that are seen
    bool box = true;
};

static Shown shown(const Problem &p, int64_t b, Sights &sights) {
    const int32_t *start = p.start + (p.table_rows > 1 ? b : 0) * 2;
    Shown seen;
    if (!p.queries || start[0] == start[1]) return seen;
    const Sight &sight = sights.of(p.pattern[start[0]], p.patterns);
    seen.sight = &sight, seen.queries = sight.end_query, seen.keys = sight.end_key;
    if (sight.whole || p.steps) return seen.box = sight.whole && !p.steps, seen;
    const uint64_t all = seen.keys == TILE ? ~0ull : (1ull << seen.keys) - 1;
    for (int i = 0; i < seen.queries; i++) seen.box = seen.box && sight.query[i] == all;
    return seen;
}

// The widths and counts of a call, rounded to whole vectors, and the memory of one thread.
template <class T, class S> struct Short {
    const Problem &p;
    const int width, value, D, V, Q, K; // Q: lanes of queries, K: rows of keys
    T *s, *dp, *spare, *saved, *keys, *values, *q_rows, *d_rows, *q_columns, *d_columns, *out, *dk, *dv, *line;
    StepTile<T> *steps;
    Sights sights;
    bool good;

    Short(const Problem &p, bool backward)
        : p(p), width(int(p.head_width)), value(int(p.value_width)), D(rounded(width, LANES<T>)), V(rounded(value, LANES<T>)),
          Q(rounded(p.queries, LANES<T>)), K(rounded4(int(p.keys))) {
        const int64_t tile = TILE * (TILE + 8), wide = D > V ? D : V, rows = TILE + 8;
        const int64_t total = tile * (1 + (backward ? 2 + p.steps : 0)) + rows * (2 * D + 2 * V) + rows * (2 * D + 2 * V) +
                              rows * wide + rows * (D + V) + 4 * TILE;
        T *next = scratch().reserve<T>(size_t(total) + sizeof(StepTile<T>) / sizeof(T) + 64);
        good = next != nullptr;
        if (!good) return;
        auto take = [&](int64_t count) {
            T *here = next;
            next += count;
            return here;
        };
        s = take(tile);
        dp = spare = saved = nullptr;
        if (backward) dp = take(tile), spare = take(tile), saved = take(tile * p.steps);
        keys = take(rows * D), values = take(rows * V), q_rows = take(rows * D), d_rows = take(rows * V);
        q_columns = take(rows * D), d_columns = take(rows * V), out = take(rows * wide);
        dk = take(rows * D), dv = take(rows * V), line = take(4 * TILE);
        steps = reinterpret_cast<StepTile<T> *>(next);
    }

    const S *from(const Operand &x, int64_t b, int64_t h) const { return at<S>(x, b, h, 0); }

    void read_keys(const Shown &seen, int64_t b, int64_t g) {
        read_rows<S, T>(from(p.k, b, g), p.k.token, seen.keys, width, T(1), rounded4(seen.keys), D, keys);
        read_rows<S, T>(from(p.v, b, g), p.v.token, seen.keys, value, T(1), rounded4(seen.keys), V, values);
    }

    // to^T [keys x queries] = A B^T, with B in columns; only vectors of queries that see one of the keys.
    void scores(const Shown &seen, const T *a, int a_width, int inner, const T *columns, T *to) {
        const int all = rounded4(seen.keys), vectors = (seen.queries + LANES<T> - 1) / LANES<T>;
        for (int r = 0; r < all; r += BLOCK_ROWS) {
            int rows = all - r < BLOCK_ROWS ? all - r : BLOCK_ROWS, low = 0, high = vectors;
            if (!seen.box && !seen.sight->whole && vectors > 1) {
                seen.sight->of_key.block(r, rows, low, high);
                if (low >= high) low = high = 0;
                low /= LANES<T>, high = (high + LANES<T> - 1) / LANES<T>;
            }
            if (low < high)
                rows_of<T, false, 0, 1>(rows, high - low, inner, a + r * a_width, a_width, 1, columns + low * LANES<T>, Q,
                                        to + r * TILE + low * LANES<T>, TILE);
        }
    }

    // The keys that the queries of vector v see, and where some are hidden.
    void keys_of(const Shown &seen, int v, int &low, int &high) const {
        low = 0, high = seen.keys;
        if (!seen.box && !seen.sight->whole) visible_keys<T>(*seen.sight, v, low, high);
    }
    Mask<T> visible(const Shown &seen, int j, int v) const { return ISA::seen<T>(*seen.sight, j, v); }
    bool hides(const Shown &seen) const { return !seen.box && !seen.sight->whole; }

    // C[rows x wide] = A B over what is visible: A is a tile with strides RS and CS, B has rows of `wide`.
    template <int RS, int CS, bool ADD>
    void sum(const Shown &seen, bool finite, const T *a, const T *b, int wide, T *c) {
        const int rows = RS == 1 ? seen.queries : seen.keys, inner = RS == 1 ? seen.keys : seen.queries;
        if (!finite) {
            if (!ADD) std::memset(c, 0, sizeof(T) * size_t(rows) * size_t(wide));
            return careful_product(RS == 1 ? seen.sight->query : seen.sight->key, RS, CS, a, b, wide, c, wide);
        }
        const bool bounded = hides(seen) && inner > BLOCK_ROWS * 2;
        for (int r = 0, all = rounded4(rows); r < all; r += BLOCK_ROWS) {
            int here = all - r < BLOCK_ROWS ? all - r : BLOCK_ROWS, low = 0, high = inner;
            if (bounded) (RS == 1 ? seen.sight->of_query : seen.sight->of_key).block(r, here < TILE - r ? here : TILE - r, low, high);
            if (low >= high) low = high = 0;
            rows_of<T, ADD, RS, CS>(here, wide / LANES<T>, high - low, a + r * RS + low * CS, RS, CS, b + low * wide, wide,
                                    c + r * wide, wide);
        }
    }

    // Sets what no query of vector v sees to 0 in a tile whose products read it.
    void clear(const Shown &seen, int v, int low, int high, T *tile) const {
        for (int j = 0; j < seen.keys; j++)
            if (j < low || j >= high) store(tile + j * TILE + v * LANES<T>, Vector<T>{});
    }

    void forward_head(const Shown &seen, bool finite, int64_t b, int64_t h) {
        constexpr int L = LANES<T>;
        T *inverse = line, *lse = line + TILE;
        Place place{b, h, 0, 0, seen.queries, seen.keys};
        read_rows<S, T>(from(p.q, b, h), p.q.token, int(p.queries), width, T(p.scale), Q, D, q_rows);
        to_columns(q_rows, Q, D, width, q_columns);
        scores(seen, keys, D, width, q_columns, s);
        apply_steps<T>(p, place, *steps, s, nullptr);
        Dropout<T> dropout(p, b, h);
        for (int v = 0; v * L < seen.queries; v++) {
            int low, high;
            keys_of(seen, v, low, high);
            clear(seen, v, low, high, s);
            Bits<T> rows{};
            if (dropout.on) rows = dropout.rows(v * L);
            T *column = s + v * L;
            if (p.kind != SOFTMAX) {
                for (int j = low; j < high; j++) {
                    Vector<T> x = load(column + j * TILE), w = p.kind == SIGMOID ? logistic<T>(x) : (Vector<T>)(x < 0 ? Vector<T>{} : x * x);
                    if (hides(seen)) w = visible(seen, j, v) ? w : Vector<T>{};
                    if (dropout.on) w *= dropout.factor(rows, j);
                    store(column + j * TILE, w);
                }
                store(inverse + v * L, fill(T(1)));
                continue;
            }
            Vector<T> top = fill(T(-INFINITY)), total{};
            for (int j = low; j < high; j++) {
                Vector<T> x = load(column + j * TILE);
                if (hides(seen)) store(column + j * TILE, x = visible(seen, j, v) ? x : fill(T(-INFINITY)));
                top = larger<T>(x, top);
            }
            const Vector<T> base = (Mask<T>)(top == T(-INFINITY)) ? Vector<T>{} : top;
            for (int j = low; j < high; j++) {
                Vector<T> w = exponential(load(column + j * TILE) - base);
                total += w;
                if (dropout.on) w *= dropout.factor(rows, j);
                store(column + j * TILE, w);
            }
            const Mask<T> none = total == 0;
            store(lse + v * L, none ? fill(T(-INFINITY)) : base + logarithm(total));
            Vector<T> beside = base;
            if (p.extra_logit) {
                const T most = sizeof(T) == sizeof(float) ? T(88) : T(700); // what exp() takes
                beside = static_cast<const T *>(p.extra_logit)[h] - base;
                beside = beside > most ? fill(most) : beside;
            }
            if (p.extra_logit) total += none ? Vector<T>{} : exponential(beside);
            store(inverse + v * L, none ? Vector<T>{} : T(1) / total);
        }
        sum<1, TILE, false>(seen, finite, s, values, V, out);
        for (int i = 0; i < p.queries; i++) {
            S *to = at<S>(p.output, b, h, i);
            const bool sees = i < seen.queries && (!hides(seen) || seen.sight->query[i]);
            if (sees) write_row(out + i * V, value, inverse[i], to);
            else std::memset(to, 0, sizeof(S) * size_t(value));
            if (p.kind == SOFTMAX) at<T>(p.lse, b, h, i)[0] = sees ? lse[i] : T(-INFINITY);
        }
    }

    // Asks for what the next unit of work reads: a line or two of each token, which no prefetcher of the machine foresees.
    void fetch(const Operand &x, int64_t b, int64_t h, int64_t tokens, int64_t width) const {
        constexpr int64_t LINE = 64 / sizeof(S);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t d = 0; d < width; d += LINE) __builtin_prefetch(at<S>(x, b, h, t) + d, 0, 3);
    }
    void fetch_unit(int64_t n, bool backward) const {
        const int64_t b = n / p.groups, g = n % p.groups, group = p.heads / p.groups;
        if (b >= p.batch) return;
        fetch(p.k, b, g, p.keys, width), fetch(p.v, b, g, p.keys, value);
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            fetch(p.q, b, h, p.queries, width);
            if (backward) fetch(p.d_output, b, h, p.queries, value);
        }
    }

    void forward_nothing(int64_t b, int64_t h) {
        for (int i = 0; i < p.queries; i++) {
            std::memset(at<S>(p.output, b, h, i), 0, sizeof(S) * size_t(value));
            if (p.kind == SOFTMAX) at<T>(p.lse, b, h, i)[0] = T(-INFINITY);
        }
    }

    void forward_row(int64_t b, int64_t g) {
        const int64_t group = p.heads / p.groups;
        const Shown seen = shown(p, b, sights);
        bool finite = true;
        if (seen.sight) {
            read_keys(seen, b, g);
            finite = !hides(seen) || ISA::finite(values, V, seen.keys, V);
        }
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            if (seen.sight) forward_head(seen, finite, b, h);
            else forward_nothing(b, h);
        }
    }

    // The log-sum-exp with the extra logit, and what d_lse takes off delta, of query i.
    T whole_lse(int64_t b, int64_t h, int i, T &delta) const {
        const T lse = p.kind == SOFTMAX ? at<T>(p.lse, b, h, i)[0] : T(-INFINITY);
        delta = 0;
        if (lse == T(-INFINITY)) return 0;
        T total = lse;
        if (p.extra_logit) {
            const T extra = static_cast<const T *>(p.extra_logit)[h], high = extra > lse ? extra : lse;
            total = high + std::log1p(std::exp((extra > lse ? lse : extra) - high));
        }
        if (p.d_lse.data) delta = -at<T>(p.d_lse, b, h, i)[0] * std::exp(total - lse);
        return total;
    }

    // s becomes the weights (with dropout) and dp the gradient of the scores; delta_i = sum over j of w_ij dP_ij.
    void unweigh_head(const Shown &seen, const Dropout<T> &dropout, const T *lse, const T *delta) {
        constexpr int L = LANES<T>;
        const T scale = p.steps ? T(1) : T(p.scale);
        for (int v = 0; v * L < seen.queries; v++) {
            int low, high;
            keys_of(seen, v, low, high);
            clear(seen, v, low, high, s), clear(seen, v, low, high, dp);
            Bits<T> rows{};
            if (dropout.on) rows = dropout.rows(v * L);
            const Vector<T> base = load(lse + v * L);
            Vector<T> total = load(delta + v * L);
            for (int j = low; j < high; j++) {
                T *to = s + j * TILE + v * L, *d = dp + j * TILE + v * L;
                Vector<T> x = load(to), from = load(d), w, kept = fill(T(1));
                if (dropout.on) kept = dropout.factor(rows, j), from *= kept;
                if (p.kind == SOFTMAX) {
                    w = exponential(x - base);
                } else if (p.kind == SIGMOID) {
                    w = logistic<T>(x);
                    from = w * (1 - w) * from * scale;
                } else {
                    const Vector<T> above = x < 0 ? Vector<T>{} : x;
                    w = above * above;
                    from = 2 * above * from * scale;
                }
                if (hides(seen)) {
                    const Mask<T> there = visible(seen, j, v);
                    w = there ? w : Vector<T>{};
                    from = there ? from : Vector<T>{};
                }
                if (p.kind == SOFTMAX) {
                    total += w * from;
                    store(to, w);
                } else {
                    store(to, dropout.on ? w * kept : w);
                }
                store(d, from);
            }
            if (p.kind != SOFTMAX) continue;
            for (int j = low; j < high; j++) {
                T *to = s + j * TILE + v * L, *d = dp + j * TILE + v * L;
                const Vector<T> w = load(to);
                Vector<T> from = w * (load(d) - total) * scale;
                if (hides(seen)) from = visible(seen, j, v) ? from : Vector<T>{};
                store(d, from);
                if (dropout.on) store(to, w * dropout.factor(rows, j));
            }
        }
    }

    template <bool ADD> void backward_head(const Shown &seen, int64_t b, int64_t h) {
        T *lse = line, *delta = line + TILE;
        Place place{b, h, 0, 0, seen.queries, seen.keys};
        read_rows<S, T>(from(p.q, b, h), p.q.token, int(p.queries), width, T(1), Q, D, q_rows);
        read_rows<S, T>(from(p.d_output, b, h), p.d_output.token, int(p.queries), value, T(1), Q, V, d_rows);
        to_columns(q_rows, Q, D, width, q_columns), to_columns(d_rows, Q, V, value, d_columns);
        for (int x = 0; x < Q * width; x += LANES<T>) store(q_columns + x, load(q_columns + x) * T(p.scale)); // as forward
        for (int i = 0; i < Q; i++) delta[i] = lse[i] = 0;
        for (int i = 0; i < seen.queries; i++) lse[i] = whole_lse(b, h, i, delta[i]);
        scores(seen, keys, D, width, q_columns, s);
        apply_steps<T>(p, place, *steps, s, saved);
        scores(seen, values, V, value, d_columns, dp);
        unweigh_head(seen, Dropout<T>(p, b, h), lse, delta);
        const bool finite = !hides(seen) || (ISA::finite(d_rows, V, seen.queries, V) && ISA::finite(q_rows, D, seen.queries, D) &&
                                             ISA::finite(keys, D, seen.keys, D));
        sum<TILE, 1, ADD>(seen, finite, s, d_rows, V, dv);
        if (p.steps) {
            undo_steps<T>(p, place, b, *steps, dp, saved, spare);
            for (int j = 0; j < seen.keys; j++)
                for (int i = 0; i < Q; i += LANES<T>) store(dp + j * TILE + i, load(dp + j * TILE + i) * T(p.scale));
        }
        sum<TILE, 1, ADD>(seen, finite, dp, q_rows, D, dk);
        sum<1, TILE, false>(seen, finite, dp, keys, D, out);
        write_rows(p.dq, b, h, out, D, width, seen.queries, int(p.queries));
    }

    // Rows from `count` on are 0.
    void write_rows(const Operand &x, int64_t b, int64_t h, const T *from, int padded, int width, int count, int all) const {
        for (int r = 0; r < all; r++) {
            S *to = at<S>(x, b, h, r);
            if (r < count) write_row(from + r * padded, width, T(1), to);
            else std::memset(to, 0, sizeof(S) * size_t(width));
        }
    }

    void backward_row(int64_t b, int64_t g) {
        const int64_t group = p.heads / p.groups;
        const Shown seen = shown(p, b, sights);
        if (seen.sight) read_keys(seen, b, g);
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            if (!seen.sight) write_rows(p.dq, b, h, out, D, width, 0, int(p.queries));
            else if (h == g * group) backward_head<false>(seen, b, h);
            else backward_head<true>(seen, b, h);
        }
        write_rows(p.dk, b, g, dk, D, width, seen.keys, int(p.keys));
        write_rows(p.dv, b, g, dv, V, value, seen.keys, int(p.keys));
    }
};

template <class T, class S> static int short_rows(const Problem &p, bool backward) {
    bool good = true;
#pragma omp parallel num_threads(int(p.threads)) reduction(&& : good)
    {
        Short<T, S> rows(p, backward);
        good = rows.good;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < p.batch * p.groups; n++) {
            if (!rows.good) continue;
            rows.fetch_unit(n + 1, backward);
            if (backward) rows.backward_row(n / p.groups, n % p.groups);
            else rows.forward_row(n / p.groups, n % p.groups);
        }
    }
    return good ? DONE : OUT_OF_MEMORY;
}

} // namespace ISA
