// Few queries over many keys (decoding): nothing is transposed or copied, keys and values are read once for all heads of
// their group. The keys are cut into parts, one unit of work each, whose online softmaxes are merged at the end. A part goes
// through all groups tile by tile: where tokens hold their heads side by side, so do pages of memory.
#pragma once
#include "forward.h"

namespace ISA {

constexpr int FEW_QUERIES = 4;

// One part of the keys of one batch row: o, and the softmax so far, of each row (head x query).
template <class T> struct Part {
    T *o, *highest, *total;
};

template <class T> INLINE T dot(const T *a, const T *b, int width) {
    constexpr int L = LANES<T>;
    Vector<T> sum[4] = {};
    int d = 0;
    for (; d + 4 * L <= width; d += 4 * L)
        for (int n = 0; n < 4; n++) sum[n] += load(a + d + n * L) * load(b + d + n * L);
    for (; d + L <= width; d += L) sum[0] += load(a + d) * load(b + d);
    T all = sum_of<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; d < width; d++) all += a[d] * b[d];
    return all;
}

// o = o shrink + sum over keys of w[j] v[j], a few columns at a time in registers.
template <class T>
INLINE void add_values(const T *w, uint64_t visible, const T *v, int64_t token, int width, T shrink, T *o) {
    constexpr int L = LANES<T>, WIDE = 4;
    int d = 0;
    for (; d + WIDE * L <= width; d += WIDE * L) {
        Vector<T> sum[WIDE];
        for (int n = 0; n < WIDE; n++) sum[n] = load(o + d + n * L) * shrink;
        for (uint64_t left = visible; left; left &= left - 1) {
            const int j = __builtin_ctzll(left);
            for (int n = 0; n < WIDE; n++) sum[n] += load(v + j * token + d + n * L) * w[j];
        }
        for (int n = 0; n < WIDE; n++) store(o + d + n * L, sum[n]);
    }
    for (; d + L <= width; d += L) {
        Vector<T> sum = load(o + d) * shrink;
        for (uint64_t left = visible; left; left &= left - 1) {
            const int j = __builtin_ctzll(left);
            sum += load(v + j * token + d) * w[j];
        }
        store(o + d, sum);
    }
    for (; d < width; d++) {
        T sum = o[d] * shrink;
        for (uint64_t left = visible; left; left &= left - 1) sum += v[__builtin_ctzll(left) * token + d] * w[__builtin_ctzll(left)];
        o[d] = sum;
    }
}

// Entries [from, to) of the tile list: one part.
template <class T>
static bool decode_part(const Problem &p, int64_t b, int64_t from, int64_t to, const Part<T> &part) {
    const int D = int(p.head_width), V = int(p.value_width), queries = int(p.queries);
    const int64_t group = p.heads / p.groups;
    T *memory = scratch().reserve<T>(size_t(TILE * TILE + TILE) + sizeof(StepTile<T>) / sizeof(T) + 64);
    if (!memory) return false;
    T *s = memory, *weights = s + TILE * TILE;
    StepTile<T> &steps = *reinterpret_cast<StepTile<T> *>(weights + TILE);
    for (int64_t r = 0; r < p.heads * queries; r++) {
        std::memset(part.o + r * V, 0, sizeof(T) * size_t(V));
        part.highest[r] = T(-INFINITY), part.total[r] = 0;
    }
    for (int64_t n = from; n < to; n++) {
        const int64_t first = int64_t(p.key_tile[n]) * TILE;
        Place place{b, 0, 0, first, queries, in_tile(first, p.keys)};
        const uint64_t everything = place.keys == TILE ? ~0ull : (1ull << place.keys) - 1;
        const uint64_t *pattern = p.pattern[n] < 0 ? nullptr : p.patterns + int64_t(p.pattern[n]) * TILE;
        uint64_t anyone = 0;
        for (int i = 0; i < queries; i++) anyone |= pattern ? pattern[i] : everything;
        for (int64_t h = 0; h < p.heads; h++) {
            const int64_t g = h / group;
            const T *keys = at<T>(p.k, b, g, first), *values = at<T>(p.v, b, g, first);
            place.h = h;
            const T *q = at<T>(p.q, b, place.h, 0);
            for (uint64_t left = anyone; left; left &= left - 1) {
                const int j = __builtin_ctzll(left);
                if (h % group == 0 && n + 1 < to) fetch_row<T>(p, b, g, int64_t(p.key_tile[n + 1]) * TILE + j);
                for (int i = 0; i < queries; i++) s[j * TILE + i] = dot(q + i * p.q.token, keys + j * p.k.token, D) * T(p.scale);
            }
            apply_steps<T>(p, place, steps, s, nullptr);
            Dropout<T> dropout(p, b, place.h);
            for (int i = 0; i < queries; i++) {
                const uint64_t visible = pattern ? pattern[i] : everything;
                const int64_t r = h * queries + i;
                if (!visible) continue;
                T top = part.highest[r], shrink = 1;
                for (int j = 0; j < TILE; j++) weights[j] = visible >> j & 1 ? s[j * TILE + i] : T(-INFINITY);
                if (p.kind == SOFTMAX) {
                    for (int j = 0; j < TILE; j++) top = weights[j] > top ? weights[j] : top;
                    const T base = top == T(-INFINITY) ? T(0) : top;
                    if (top > part.highest[r]) shrink = std::exp(part.highest[r] - base);
                    Vector<T> sum{};
                    for (int j = 0; j < TILE; j += LANES<T>) {
                        Vector<T> w = exponential(load(weights + j) - base);
                        sum += w;
                        store(weights + j, w);
                    }
                    part.total[r] = part.total[r] * shrink + sum_of<T>(sum);
                    part.highest[r] = top;
                } else {
                    for (int j = 0; j < TILE; j += LANES<T>) {
                        Vector<T> x = load(weights + j);
                        store(weights + j, p.kind == SIGMOID ? logistic<T>(x) : (Vector<T>)(x < 0 ? Vector<T>{} : x * x));
                    }
                }
                if (dropout.on)
                    for (uint64_t left = visible; left; left &= left - 1) {
                        const int j = __builtin_ctzll(left);
                        weights[j] *= dropout.factor(dropout.rows(i), first + j)[0];
                    }
                add_values(weights, visible, values, p.v.token, V, shrink, part.o + r * V);
            }
        }
    }
    return true;
}

template <class T>
static void merge_parts(const Problem &p, int64_t b, int64_t h, int64_t i, int64_t r, const Part<T> *parts, int64_t count) {
    T highest = T(-INFINITY), total = 0, inverse = 1;
    for (int64_t n = 0; n < count; n++) highest = parts[n].highest[r] > highest ? parts[n].highest[r] : highest;
    const T base = highest == T(-INFINITY) ? T(0) : highest;
    T *to = at<T>(p.output, b, h, i);
    for (int64_t d = 0; d < p.value_width; d++) to[d] = 0;
    for (int64_t n = 0; n < count; n++) {
        const T share = p.kind == SOFTMAX ? std::exp(parts[n].highest[r] - base) : T(1);
        if (p.kind == SOFTMAX && parts[n].total[r] == 0) continue;
        // a part whose scores are all NaN has no highest, and must not vanish
        const T factor = parts[n].total[r] != parts[n].total[r] ? T(NAN) : share;
        total += parts[n].total[r] * factor;
        for (int64_t d = 0; d < p.value_width; d++) to[d] += parts[n].o[r * p.value_width + d] * factor;
    }
    if (p.kind != SOFTMAX) return;
    at<T>(p.lse, b, h, i)[0] = total == 0 ? T(-INFINITY) : base + std::log(total);
    if (p.extra_logit && total != 0) total += std::exp(static_cast<const T *>(p.extra_logit)[h] - base);
    inverse = total == 0 ? T(0) : 1 / total;
    for (int64_t d = 0; d < p.value_width; d++) to[d] *= inverse;
}

template <class T> static int decode(const Problem &p) {
    const int64_t rows = p.heads * p.queries, V = p.value_width;
    const int64_t parts = p.batch >= 4 * p.threads || p.threads == 1 ? 1 : (4 * p.threads + p.batch - 1) / p.batch;
    const int64_t units = p.batch * parts, each = (rows * (V + 2) + 15) / 16 * 16;
    const size_t bytes = (size_t(units * each) * sizeof(T) + size_t(units) * sizeof(Part<T>) + 4095) / 4096 * 4096;
    char *block = static_cast<char *>(std::aligned_alloc(4096, bytes));
    if (!block) return OUT_OF_MEMORY;
    T *memory = reinterpret_cast<T *>(block);
    Part<T> *made = reinterpret_cast<Part<T> *>(block + size_t(units * each) * sizeof(T));
    for (int64_t n = 0; n < units; n++) made[n] = {memory + n * each, memory + n * each + rows * V, memory + n * each + rows * (V + 1)};
    bool good = true;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(p.threads)) reduction(&& : good)
    for (int64_t n = 0; n < units; n++) {
        const int64_t b = n / parts, part = n % parts;
        const int32_t *start = p.start + (p.table_rows > 1 ? b : 0) * 2;
        const int64_t from = start[0], count = start[1] - from;
        good = decode_part<T>(p, b, from + count * part / parts, from + count * (part + 1) / parts, made[n]) && good;
    }
    for (int64_t b = 0; b < p.batch; b++)
        for (int64_t h = 0; h < p.heads; h++)
            for (int64_t i = 0; i < p.queries; i++) merge_parts<T>(p, b, h, i, h * p.queries + i, made + b * parts, parts);
    std::free(block);
    return good ? DONE : OUT_OF_MEMORY;
}

} // namespace ISA
