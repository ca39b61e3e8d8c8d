// What happens to a tile of scores s = scale q k before it becomes weights, and the way back. A tile is s^T: 64 rows of
// keys, the queries in the lanes.
#pragma once
#include "place.h"

namespace ISA {

// The numbers of a step at one tile: for key j and query i, base[j * row + i].
template <class T> struct StepValues {
    const T *base;
    int64_t row;
    bool diagonal; // positions run on by one: the value depends on i - j alone
    int64_t distance; // of query 0 and key 0 of the tile
};

template <class T> struct StepTile {
    T line[2 * TILE + LANES<T>];
    T matrix[TILE * TILE];
    T skewed[LANES<T> * 2 * TILE];
};

INLINE const int32_t *positions(const Problem &p, const int32_t *from, int64_t length, int64_t b, int64_t first) {
    return from + (p.position_rows > 1 ? b * length : 0) + first;
}
INLINE bool consecutive(const int32_t *position, int count) {
    int32_t wrong = 0;
    for (int n = 1; n < count; n++) wrong |= position[n] - position[0] - n;
    return wrong == 0;
}

template <class T>
static StepValues<T> step_values(const Problem &p, const Step &step, const Place &at, StepTile<T> &tile) {
    const T *values = static_cast<const T *>(step.values) + at.b * step.batch_stride + at.h * step.head_stride;
    if (step.kind == MULTIPLY_BY_QUERY || step.kind == ADD_BY_QUERY) {
        for (int i = 0; i < TILE; i++) tile.line[i] = i < at.queries ? values[at.query + i] : T(0);
        return {tile.line, 0, false, 0};
    }
    if (step.constant) {
        for (int i = 0; i < TILE; i++) tile.line[i] = values[0];
        return {tile.line, 0, false, 0};
    }
    const int32_t *query = positions(p, p.query_position, p.queries, at.b, at.query);
    const int32_t *key = positions(p, p.key_position, p.keys, at.b, at.key);
    if (consecutive(query, at.queries) && consecutive(key, at.keys)) {
        int64_t distance = int64_t(query[0]) - key[0], from = distance - (TILE - 1) - step.first;
        for (int n = 0; n < 2 * TILE; n++) tile.line[n] = uint64_t(from + n) < uint64_t(step.length) ? values[from + n] : T(0);
        return {tile.line + TILE - 1, -1, true, distance};
    }
    for (int j = 0; j < at.keys; j++)
        for (int i = 0; i < TILE; i++) {
            int64_t n = i < at.queries ? int64_t(query[i]) - key[j] - step.first : -1;
            tile.matrix[j * TILE + i] = uint64_t(n) < uint64_t(step.length) ? values[n] : T(0);
        }
    return {tile.matrix, TILE, false, 0};
}

// log(e^s + e^t), and -inf where both are.
template <class T> INLINE Vector<T> log_add_exp(Vector<T> s, Vector<T> t) {
    Vector<T> high = s > t ? s : t, low = s > t ? t : s; // a NaN in s is in `low`
    Vector<T> sum = high + log_one_plus(exponential(low - high));
    return (Mask<T>)(low == high) ? high + T(0.69314718055994530942) : sum; // both infinite, too
}
template <class T> INLINE Vector<T> logistic(Vector<T> x) {
    Vector<T> e = exponential(x < 0 ? x : -x);
    return (x < 0 ? e : fill(T(1))) / (e + T(1));
}

// Applies the steps in place. `saved` (or null): for each step a tile that the way back needs.
template <class T>
static void apply_steps(const Problem &p, const Place &at, StepTile<T> &tile, T *s, T *saved) {
    constexpr int L = LANES<T>;
    const int here = lanes<T>(at);
    for (int64_t n = 0; n < p.steps; n++) {
        const Step &step = p.step[n];
        T *kept = saved ? saved + n * TILE * TILE : nullptr;
        if (kept && step.kind != SOFT_CAP) std::memcpy(kept, s, sizeof(T) * TILE * size_t(at.keys));
        if (step.kind == SOFT_CAP) { // cap tanh(s / cap)
            const T cap = T(step.cap), inverse = T(1 / step.cap);
            for (int j = 0; j < at.keys; j++)
                for (int x = j * TILE; x < j * TILE + here; x += L) store(s + x, tangent(load(s + x) * inverse) * cap);
            if (kept) std::memcpy(kept, s, sizeof(T) * TILE * size_t(at.keys));
            continue;
        }
        StepValues<T> values = step_values(p, step, at, tile);
        for (int j = 0; j < at.keys; j++)
            for (int i = 0; i < here; i += L) {
                Vector<T> x = load(s + j * TILE + i), y = load(values.base + j * values.row + i);
                if (step.kind == MULTIPLY_BY_QUERY) x = x * y;
                else if (step.kind == LOG_ADD_EXP_BY_DISTANCE) x = log_add_exp<T>(x, y);
                else x = x + y;
                store(s + j * TILE + i, x);
            }
    }
}

// The gradient of a table: `d` summed over the pairs of one distance.
template <class T>
static void add_by_distance(const Problem &p, const Step &step, const Place &at, const StepValues<T> &values,
                            StepTile<T> &tile, const T *d, double *gradient) {
    constexpr int L = LANES<T>;
    const int here = lanes<T>(at);
    if (step.constant) {
        Vector<T> sum{};
        for (int j = 0; j < at.keys; j++)
            for (int i = 0; i < here; i += L) sum += load(d + j * TILE + i);
        gradient[0] += double(sum_of<T>(sum));
        return;
    }
    if (!values.diagonal) {
        const int32_t *query = positions(p, p.query_position, p.queries, at.b, at.query);
        const int32_t *key = positions(p, p.key_position, p.keys, at.b, at.key);
        for (int j = 0; j < at.keys; j++)
            for (int i = 0; i < at.queries; i++) {
                int64_t n = int64_t(query[i]) - key[j] - step.first;
                if (uint64_t(n) < uint64_t(step.length)) gradient[n] += double(d[j * TILE + i]);
            }
        return;
    }
    // Row j = L m + r goes to line r at column 64 + i - L m, so that whole vectors are added, and lines never overlap:
    // the distance of column x of line r is that of query 0 and key 0 plus x - 64 - r.
    std::memset(tile.skewed, 0, sizeof tile.skewed);
    for (int j = 0; j < at.keys; j++) {
        T *line = tile.skewed + (j % L) * 2 * TILE + TILE - j / L * L;
        for (int i = 0; i < here; i += L) store(line + i, load(line + i) + load(d + j * TILE + i));
    }
    for (int r = 0; r < L; r++)
        for (int x = 0; x < 2 * TILE; x++) {
            int64_t n = values.distance + x - TILE - r - step.first;
            if (uint64_t(n) < uint64_t(step.length)) gradient[n] += double(tile.skewed[r * 2 * TILE + x]);
        }
}

// From the gradient of the last step's scores to that of s, in place, collecting the gradients of the steps' values.
// `d` is 0 wherever nothing is visible. `row` numbers the buffers of a step by distance.
template <class T>
static void undo_steps(const Problem &p, const Place &at, int64_t row, StepTile<T> &tile, T *d, const T *saved, T *spare) {
    constexpr int L = LANES<T>;
    const int here = lanes<T>(at);
    for (int64_t n = p.steps - 1; n >= 0; n--) {
        const Step &step = p.step[n];
        const T *kept = saved + n * TILE * TILE;
        if (step.kind == SOFT_CAP) { // d tanh = 1 - tanh^2
            const T inverse = T(1 / step.cap);
            for (int j = 0; j < at.keys; j++)
                for (int x = j * TILE; x < j * TILE + here; x += L) {
                    Vector<T> t = load(kept + x) * inverse, from = load(d + x);
                    store(d + x, (Mask<T>)(from == 0) ? Vector<T>{} : from * (1 - t * t));
                }
            continue;
        }
        StepValues<T> values = step_values(p, step, at, tile);
        double *by_distance = static_cast<double *>(step.gradient) + (row * p.heads + at.h) * step.length;
        if (step.kind == ADD_BY_DISTANCE) {
            if (step.gradient) add_by_distance(p, step, at, values, tile, d, by_distance);
            continue;
        }
        if (step.kind == LOG_ADD_EXP_BY_DISTANCE) {
            for (int j = 0; j < at.keys; j++)
                for (int i = 0; i < here; i += L) {
                    Vector<T> x = load(kept + j * TILE + i) - load(values.base + j * values.row + i);
                    Vector<T> from = load(d + j * TILE + i);
                    Mask<T> none = from == 0; // hidden, or both infinite
                    store(spare + j * TILE + i, none ? Vector<T>{} : from * logistic<T>(-x));
                    store(d + j * TILE + i, none ? Vector<T>{} : from * logistic<T>(x));
                }
            if (step.gradient) add_by_distance(p, step, at, values, tile, spare, by_distance);
            continue;
        }
        for (int i = 0; i < here; i += L) { // by query: sums over the keys
            Vector<T> factor = load(values.base + i), sum{};
            for (int j = 0; j < at.keys; j++) {
                Vector<T> from = load(d + j * TILE + i);
                if (step.kind == ADD_BY_QUERY) {
                    sum += from;
                    continue;
                }
                sum += (Mask<T>)(from == 0) ? Vector<T>{} : from * load(kept + j * TILE + i);
                store(d + j * TILE + i, (Mask<T>)(from == 0) ? Vector<T>{} : from * factor);
            }
            if (step.gradient) {
                T *to = static_cast<T *>(step.gradient) + (at.b * p.heads + at.h) * p.queries + at.query;
                for (int lane = 0; lane < L && i + lane < at.queries; lane++) to[i + lane] += sum[lane];
            }
        }
    }
}

} // namespace ISA
