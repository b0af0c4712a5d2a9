/* What layers do element by element, for bfloat16 on a CPU, and the gradients of that: one pass
   over memory each. Indices of arrays: the last is the fastest. */

#include <math.h>

#include "bfloat16.h"

#define SMALL 16384 /* numbers that are not worth a second thread */

/* e^x, to 5e-6; beyond 2^-126 and 2^126 it stays there. Plain enough for a compiler to compute many
   at once. */
INLINE float exponential(float x) {
    x *= 1.44269504f;
    x = x < -126.0f ? -126.0f : x > 126.0f ? 126.0f : x;
    int32_t nearest = (int32_t)(x + 126.5f) - 126;
    float part = x - nearest;
    float p = 9.6181291e-3f * part + 5.5504109e-2f;
    p = p * part + 2.4022651e-1f;
    p = p * part + 6.9314718e-1f;
    p = p * part + 1.0f;
    uint32_t bits = (uint32_t)(nearest + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* Each of n rows [n, dim] over the root of its mean square, rounded, times the weight [dim]. */
void normalise(const bf16 *rows, const bf16 *weight, bf16 *output, long n, long dim,
               double epsilon) {
#pragma omp parallel for schedule(static) if (n * dim > SMALL)
    for (long r = 0; r < n; r++) {
        const bf16 *row = rows + r * dim;
        float squares = 0.0f;
        for (long d = 0; d < dim; d++) squares += widen(row[d]) * widen(row[d]);
        float share = 1.0f / sqrtf(squares / dim + (float)epsilon);
        for (long d = 0; d < dim; d++)
            output[r * dim + d] = narrow(widen(weight[d]) * widen(narrow(widen(row[d]) * share)));
    }
}

/* Its gradients: of the rows, and of the weight. The latter's are sums over `many` rows each
   [n / many, dim], yet to be added up: so they do not depend on the number of threads. */
void normalise_back(const bf16 *rows, const bf16 *weight, const bf16 *upstream, bf16 *grad_rows,
                    float *grad_weights, long n, long dim, long many, double epsilon) {
#pragma omp parallel for schedule(static) if (n * dim > SMALL)
    for (long first = 0; first < n; first += many) {
        float *sums = grad_weights + first / many * dim;
        memset(sums, 0, dim * sizeof(float));
        for (long r = first; r < n && r < first + many; r++) {
            const bf16 *row = rows + r * dim, *up = upstream + r * dim;
            float squares = 0.0f, along = 0.0f;
            for (long d = 0; d < dim; d++) {
                squares += widen(row[d]) * widen(row[d]);
                along += widen(row[d]) * widen(up[d]) * widen(weight[d]);
            }
            float share = 1.0f / sqrtf(squares / dim + (float)epsilon);
            float back = along * share * share / dim;
            for (long d = 0; d < dim; d++) {
                float x = widen(row[d]), g = widen(up[d]);
                sums[d] += g * x * share;
                grad_rows[r * dim + d] = narrow(share * (g * widen(weight[d]) - back * x));
            }
        }
    }
}

/* silu(gates), rounded, times ups: both n rows [n, width] that lie `stride` apart. */
void gate(const bf16 *gates, const bf16 *ups, bf16 *output, long n, long width, long stride) {
#pragma omp parallel for schedule(static) if (n * width > SMALL)
    for (long r = 0; r < n; r++) {
        const bf16 *first = gates + r * stride, *second = ups + r * stride;
        for (long i = 0; i < width; i++) {
            float x = widen(first[i]);
            output[r * width + i] = narrow(widen(narrow(x / (1.0f + exponential(-x)))) * widen(second[i]));
        }
    }
}

/* Its gradients; everything in one piece [n, width]. */
void gate_back(const bf16 *gates, const bf16 *ups, const bf16 *upstream, bf16 *grad_gates,
               bf16 *grad_ups, long n, long width) {
#pragma omp parallel for schedule(static) if (n * width > SMALL)
    for (long r = 0; r < n; r++)
        for (long i = r * width; i < (r + 1) * width; i++) {
            float x = widen(gates[i]), g = widen(upstream[i]);
            float share = 1.0f / (1.0f + exponential(-x));
            grad_ups[i] = narrow(g * x * share);
            grad_gates[i] = narrow(g * widen(ups[i]) * share * (1.0f + x * (1.0f - share)));
        }
}

/* Rotary positions of heads [n, heads, dim], whose rows lie `stride` apart, to an output whose
   rows lie `output_stride` apart and which may be the same; cosines and sines [n, dim]. Products
   are rounded before they are added, as torch's are. */
void rotate(const bf16 *rows, const bf16 *cosines, const bf16 *sines, bf16 *output, long n,
            long heads, long dim, long stride, long output_stride) {
    long half = dim / 2;
#pragma omp parallel for schedule(static) if (n * heads * dim > SMALL)
    for (long r = 0; r < n; r++) {
        const bf16 *c = cosines + r * dim, *s = sines + r * dim;
        for (long h = 0; h < heads; h++) {
            const bf16 *low = rows + r * stride + h * dim, *high = low + half;
            bf16 *to = output + r * output_stride + h * dim;
#pragma omp simd
            for (long d = 0; d < half; d++) {
                float a = widen(low[d]), b = widen(high[d]);
                to[d] = narrow(widen(narrow(a * widen(c[d]))) - widen(narrow(b * widen(s[d]))));
                to[half + d] = narrow(widen(narrow(b * widen(c[half + d]))) +
                                      widen(narrow(a * widen(s[half + d]))));
            }
        }
    }
}

/* Scores [n, seen] become their softmax, in place. The last `block` columns are what as many rows
   have to say of one another: of these, row r sees the first r % block + 1. */
void causal_softmax(bf16 *scores, long n, long block, long seen) {
#pragma omp parallel for schedule(static) if (n * seen > SMALL)
    for (long r = 0; r < n; r++) {
        bf16 *row = scores + r * seen;
        long sees = seen - block + r % block + 1;
        float top = widen(row[0]), total = 0.0f, weights[sees];
        for (long k = 1; k < sees; k++) {
            float x = widen(row[k]);
            top = x > top ? x : top;
        }
        for (long k = 0; k < sees; k++) total += weights[k] = exponential(widen(row[k]) - top);
        float share = 1.0f / total;
        for (long k = 0; k < sees; k++) row[k] = narrow(weights[k] * share);
        memset(row + sees, 0, (seen - sees) * sizeof(bf16));
    }
}

/* The gradient of weights [n, seen] that are a softmax becomes that of the scores, in place. */
void causal_softmax_back(const bf16 *weights, bf16 *gradients, long n, long block, long seen) {
#pragma omp parallel for schedule(static) if (n * seen > SMALL)
    for (long r = 0; r < n; r++) {
        const bf16 *weight = weights + r * seen;
        bf16 *row = gradients + r * seen;
        long sees = seen - block + r % block + 1;
        float mean = 0.0f;
        for (long k = 0; k < sees; k++) mean += widen(weight[k]) * widen(row[k]);
        for (long k = 0; k < sees; k++) row[k] = narrow(widen(weight[k]) * (widen(row[k]) - mean));
        memset(row + sees, 0, (seen - sees) * sizeof(bf16));
    }
}
