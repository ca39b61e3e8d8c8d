// What one call is asked and given: plain C, read by Python through ctypes (attentune/kernels/native/library.py mirrors
// these two structures field by field).
#pragma once
#include <cstdint>

enum StepKind : int64_t { ADD_BY_DISTANCE, LOG_ADD_EXP_BY_DISTANCE, SOFT_CAP, MULTIPLY_BY_QUERY, ADD_BY_QUERY };
enum WeightKind : int64_t { SOFTMAX, SIGMOID, RELU2 };
enum ReturnCode : int { DONE = 0, OUT_OF_MEMORY = 1, BAD_PROBLEM = 2, NO_SUCH_INSTRUCTION_SET = 3 };

// One step of the scores. `values` is the table [H or 1, length] of a step by distance, or the factor or term
// [B or 1, H or 1, Q] of a step by query; a stride of 0 repeats. `gradient` (or null) is double [B * segments, H, length]
// for a step by distance and has the numbers' own type, [B, H, Q], for a step by query.
struct Step {
    int64_t kind, constant, first, length, batch_stride, head_stride;
    double cap;
    const void *values;
    void *gradient;
};

// Strides count numbers, not bytes, and are those of (batch, head, token); the last axis is always contiguous.
struct Operand {
    void *data;
    int64_t batch, head, token;
};

struct Problem {
    int64_t batch, heads, groups, queries, keys, head_width, value_width;
    Operand q, k, v, output, lse;                   // lse [B H Q]: of the visible keys alone, without the extra logit
    Operand d_output, d_lse, dq, dk, dv;            // of the backward pass; d_lse.data may be null
    Operand column_mass, entropy, top_weight, top_key; // of the statistics, null where not wanted
    int64_t top, wants_lse;
    double scale;
    int64_t kind, steps, table_rows, position_rows;
    const Step *step;
    const void *extra_logit; // [H] or null
    const int32_t *start, *key_tile, *pattern;
    const uint64_t *patterns; // [P][64]
    const int32_t *query_position, *key_position;
    double dropout;
    uint64_t seed;
    int64_t threads, segments, doubles; // doubles: the numbers are float64
    int64_t bfloat16; // q, k, v, output, d_output, dq, dk and dv are; only rows of one tile
};
