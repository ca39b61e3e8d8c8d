// What is told of the weights w = exp(s - lse) beside the output, in a second walk over the tiles, before dropout:
//     column mass_j = sum over i of w_ij      entropy_i = -sum over j of w_ij log w_ij      the greatest w_ij of each i
#pragma once
#include "decode.h"

namespace ISA {

// Keeps the `count` greatest weights of a query, in descending order.
template <class T> INLINE void keep_best(T *weight, int64_t *key, int64_t count, T w, int64_t j) {
    int64_t n = count - 1;
    for (; n > 0 && weight[n - 1] < w; n--) weight[n] = weight[n - 1], key[n] = key[n - 1];
    weight[n] = w, key[n] = j;
}

// -w log w, 0 at 0. For softmax log w = s - lse is at hand.
template <class T> INLINE T surprise(T w) { return w > 0 ? -w * std::log(w) : (w == 0 ? T(0) : T(NAN)); }

template <class T>
static bool statistics_unit(const Problem &p, int64_t b, int64_t h, int64_t from, int64_t to, T *mass) {
    constexpr int L = LANES<T>;
    const int D = int(p.head_width);
    const int64_t g = h / (p.heads / p.groups);
    T *memory = scratch().reserve<T>(size_t((TILE + D + 6 + L) * TILE) + sizeof(StepTile<T>) / sizeof(T) + 64);
    if (!memory) return false;
    T *s = memory, *columns = s + TILE * TILE, *lse = columns + D * TILE, *entropy = lse + TILE, *least = entropy + TILE;
    T *highest = least + TILE, *total = highest + TILE;
    T *columns_sum = total + TILE; // [TILE][L]: the column mass of one tile, lane by lane
    StepTile<T> &steps = *reinterpret_cast<StepTile<T> *>(columns_sum + TILE * L);
    Sights sights;
    for (int64_t tile = from; tile < to; tile++) {
        const int64_t first = tile * TILE;
        const int count = in_tile(first, p.queries);
        gather_columns(at<T>(p.q, b, h, first), p.q.token, count, D, T(p.scale), columns);
        for (int i = 0; i < TILE; i++) {
            entropy[i] = total[i] = least[i] = lse[i] = 0, highest[i] = T(-INFINITY);
            if (i >= count || p.kind != SOFTMAX) continue;
            const T own = at<T>(p.lse, b, h, first)[i];
            if (own == T(-INFINITY)) continue;
            lse[i] = own;
            if (!p.extra_logit) continue;
            const T extra = static_cast<const T *>(p.extra_logit)[h], high = extra > own ? extra : own;
            lse[i] = high + std::log1p(std::exp((extra > own ? own : extra) - high));
        }
        Walk walk(p, b, tile, 1);
        for (; walk.at[0] < walk.end[0]; walk.at[0]++) {
            Place place{b, h, first, int64_t(p.key_tile[walk.at[0]]) * TILE, count, 0};
            place.keys = in_tile(place.key, p.keys);
            const Sight &sight = sights.of(p.pattern[walk.at[0]], p.patterns);
            scores_product(sight, place.keys, D, at<T>(p.k, b, g, place.key), p.k.token, columns, s);
            apply_steps<T>(p, place, steps, s, nullptr);
            if (p.column_mass.data) std::memset(columns_sum, 0, sizeof(T) * TILE * L);
            for (int v = 0; v * L < count; v++) {
                int low = 0, high = TILE;
                if (!sight.whole) visible_keys<T>(sight, v, low, high);
                const Vector<T> base = load(lse + v * L);
                Vector<T> sum = load(entropy + v * L), top = load(highest + v * L), all = load(total + v * L);
                for (int j = low; j < high; j++) {
                    const Mask<T> visible = sight.whole ? lanes_of<T>(~0ull) : seen<T>(sight, j, v);
                    const Vector<T> x = load(s + j * TILE + v * L);
                    Vector<T> w;
                    if (p.kind == SOFTMAX) w = exponential(x - base);
                    else if (p.kind == SIGMOID) w = logistic<T>(x);
                    else w = x < 0 ? Vector<T>{} : x * x;
                    w = visible ? w : Vector<T>{};
                    if (p.kind == SOFTMAX) {
                        sum += (Mask<T>)(w == 0) ? Vector<T>{} : w * (base - x);
                    } else if (p.entropy.data) {
                        for (int lane = 0; lane < L; lane++) sum[lane] += surprise<T>(w[lane]);
                    }
                    if (p.wants_lse) { // of weights that need none: scores' own
                        Vector<T> score = visible ? x : fill(T(-INFINITY)), above = larger<T>(score, top);
                        Vector<T> from_top = (Mask<T>)(above == T(-INFINITY)) ? Vector<T>{} : above;
                        all = all * exponential(top - from_top) + exponential(score - from_top);
                        top = above;
                    }
                    if (p.column_mass.data) store(columns_sum + j * L, load(columns_sum + j * L) + w);
                    if (p.top_weight.data && any<T>(w > load(least + v * L)))
                        for (int lane = 0; lane < L && v * L + lane < count; lane++)
                            if (w[lane] > least[v * L + lane]) {
                                const int i = v * L + lane;
                                T *best = at<T>(p.top_weight, b, h, first + i);
                                keep_best(best, at<int64_t>(p.top_key, b, h, first + i), p.top, w[lane], place.key + j);
                                least[i] = best[p.top - 1];
                            }
                }
                store(entropy + v * L, sum), store(highest + v * L, top), store(total + v * L, all);
            }
            for (int j = 0; p.column_mass.data && j < place.keys; j++) mass[place.key + j] += sum_of<T>(load(columns_sum + j * L));
        }
        for (int i = 0; i < count; i++) {
            if (p.entropy.data) at<T>(p.entropy, b, h, first)[i] = entropy[i];
            if (p.wants_lse) at<T>(p.lse, b, h, first)[i] = total[i] == 0 ? T(-INFINITY) : highest[i] + std::log(total[i]);
        }
    }
    return true;
}

template <class T> static int statistics(const Problem &p) {
    const int64_t rows = p.batch * p.heads, query_tiles = tiles(p.queries);
    int64_t parts = rows >= 2 * p.threads || p.threads == 1 ? 1 : (4 * p.threads + rows - 1) / rows;
    if (parts > query_tiles) parts = query_tiles;
    if (parts < 1) parts = 1;
    T *mass = nullptr; // each unit's own, summed in order
    if (p.column_mass.data && !(mass = static_cast<T *>(std::calloc(size_t(rows * parts * p.keys), sizeof(T))))) return OUT_OF_MEMORY;
    bool good = true;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(p.threads)) reduction(&& : good)
    for (int64_t n = 0; n < rows * parts; n++) {
        const int64_t row = n / parts, part = n % parts;
        good = statistics_unit<T>(p, row / p.heads, row % p.heads, query_tiles * part / parts, query_tiles * (part + 1) / parts,
                                  mass ? mass + n * p.keys : nullptr) && good;
    }
    for (int64_t n = 0; mass && n < rows * parts; n++) {
        T *to = at<T>(p.column_mass, n / parts / p.heads, n / parts % p.heads, 0);
        for (int64_t j = 0; j < p.keys; j++) to[j] = (n % parts ? to[j] : T(0)) + mass[n * p.keys + j];
    }
    std::free(mass);
    return good ? DONE : OUT_OF_MEMORY;
}

} // namespace ISA
