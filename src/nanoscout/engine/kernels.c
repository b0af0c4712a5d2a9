/* Attention of bfloat16 conversations on a CPU: what matrix products leave to do, in one pass.

   Plain C, vectorised by the compiler for the processor that it runs on. Everything is computed in
   float32 and rounded to bfloat16 once. Arrays are contiguous, the last index fastest. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

#define LOWEST -3.0e38f

static inline float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bf16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/* exp(x) for x <= 0, to 2e-7; below exp(-87) it stays there. 2^x is split at the nearest integer. */
static inline float exponential(float x) {
    float t = (x < -87.0f ? -87.0f : x) * 1.44269504f;
    float whole = rintf(t), part = t - whole;
    float p = 1.3333558e-3f;
    p = p * part + 9.6181291e-3f;
    p = p * part + 5.5504109e-2f;
    p = p * part + 2.4022651e-1f;
    p = p * part + 6.9314718e-1f;
    p = p * part + 1.0f;
    int32_t bits = ((int32_t)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

static inline float highest(const bf16 *x, long n, float least) {
    for (long i = 0; i < n; i++) {
        float wide = widen(x[i]);
        least = wide > least ? wide : least;
    }
    return least;
}

/* softmax in place of scores [blocks, rows, width], of whose row i the first `seen + i` count (all
   of them at most) and the rest become zero. */
void causal_softmax(bf16 *scores, long blocks, long rows, long width, long seen) {
#pragma omp parallel
    {
        float *e = malloc(width * sizeof(float));
#pragma omp for schedule(static)
        for (long r = 0; r < blocks * rows; r++) {
            bf16 *row = scores + r * width;
            long n = seen + r % rows < width ? seen + r % rows : width;
            float top = highest(row, n, LOWEST), total = 0.0f;
            for (long i = 0; i < n; i++) {
                e[i] = exponential(widen(row[i]) - top);
                total += e[i];
            }
            float share = 1.0f / total;
            for (long i = 0; i < n; i++) row[i] = narrow(e[i] * share);
            memset(row + n, 0, (width - n) * sizeof(bf16));
        }
        free(e);
    }
}

/* The dot products of a query with n keys [n, dim]. */
static inline __attribute__((always_inline)) void score(const float *query, const bf16 *keys,
                                                         float *scores, long n, const long dim) {
    for (long i = 0; i < n; i++) {
        float dot = 0.0f;
        for (long d = 0; d < dim; d++) dot += query[d] * widen(keys[i * dim + d]);
        scores[i] = dot;
    }
}

/* The sum of n values [n, dim], each times its weight. */
static inline __attribute__((always_inline)) void gather(const float *weights, const bf16 *values,
                                                          float *sum, long n, const long dim) {
    float part[dim];
    for (long d = 0; d < dim; d++) part[d] = 0.0f;
    for (long i = 0; i < n; i++)
        for (long d = 0; d < dim; d++) part[d] += weights[i] * widen(values[i * dim + d]);
    for (long d = 0; d < dim; d++) sum[d] = part[d];
}

/* One new token for each of `tokens` conversations of a block.

   query, output [kv_heads, all, group, dim]: this block's tokens begin at `first`.
   prefix [kv_heads, all, group, shared]: scores of the shared prefix, and then their weights; a
   conversation with alone[t] does not look at it.
   keys, values [rows, kv_heads, capacity, dim]: conversation t is in row[t] and holds length[t]
   tokens; its new key and value come from new_key, new_value, whose heads lie key_head and
   value_head apart, and tokens key_token and value_token.
   output: what the own tokens give; the prefix's part is a product of its weights. */
void decode(const bf16 *query, bf16 *output, bf16 *prefix, const uint8_t *alone, bf16 *keys,
            bf16 *values, const bf16 *new_key, const bf16 *new_value, const int64_t *row,
            const int64_t *length, long tokens, long first, long all, long kv_heads, long group,
            long dim, long shared, long capacity, long key_head, long key_token, long value_head,
            long value_token) {
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (long t = 0; t < tokens; t++)
        for (long h = 0; h < kv_heads; h++) {
            long n = length[t] + 1, token = first + t;
            long looked = alone[token] ? 0 : shared, place = row[t] * kv_heads + h;
            bf16 *k = keys + place * capacity * dim, *v = values + place * capacity * dim;
            const bf16 *last_key = new_key + h * key_head + token * key_token;
            const bf16 *last_value = new_value + h * value_head + token * value_token;
            memcpy(k + (n - 1) * dim, last_key, dim * sizeof(bf16));
            memcpy(v + (n - 1) * dim, last_value, dim * sizeof(bf16));
            float e[n], p[shared + 1], q[dim];
            for (long g = 0; g < group; g++) {
                long at = (h * all + token) * group + g;
                for (long d = 0; d < dim; d++) q[d] = widen(query[at * dim + d]);
                if (dim == 64) score(q, k, e, n, 64);
                else if (dim == 128) score(q, k, e, n, 128);
                else score(q, k, e, n, dim);
                bf16 *before = prefix + at * shared;
                float top = highest(before, looked, LOWEST), total = 0.0f;
                for (long i = 0; i < n; i++) top = e[i] > top ? e[i] : top;
                for (long i = 0; i < looked; i++) {
                    p[i] = exponential(widen(before[i]) - top);
                    total += p[i];
                }
                for (long i = 0; i < n; i++) {
                    e[i] = exponential(e[i] - top);
                    total += e[i];
                }
                float share = 1.0f / total;
                for (long i = 0; i < looked; i++) before[i] = narrow(p[i] * share);
                memset(before + looked, 0, (shared - looked) * sizeof(bf16));
                for (long i = 0; i < n; i++) e[i] *= share;
                if (dim == 64) gather(e, v, q, n, 64);
                else if (dim == 128) gather(e, v, q, n, 128);
                else gather(e, v, q, n, dim);
                for (long d = 0; d < dim; d++) output[at * dim + d] = narrow(q[d]);
            }
        }
}
