/* Attention of one engine step and layer, for bfloat16 on a CPU: every new token of every
   conversation against its cache, in one call.

   Sixteen queries of a key/value head stand beside one another in the lanes of vectors (a tile).
   They take in a block of keys at a time: scores, whose maxima and sums so far go along, then
   weights, then the sum of values, each sum scaled down when a higher score comes (FlashAttention).
   So nothing is ever as long as the past, and many queries share what is read of it. For the few
   queries that look at a past of their own, keys take the lanes instead.

   Products are of pairs of bfloat16 numbers and add up in float32. Keys are read as they lie; of
   values, two rows are joined into pairs first. Indices of arrays: the last is the fastest. */

#include "bfloat16.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define LANES 16
#define ROUND 16 /* keys that are scored at once */
#define BLOCK 64
#define FEW 4
#define FETCHED 256
#define MOST_DIM 128
#define MOST_TILES 6
#define LOWEST -1.0e30f

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t wholes __attribute__((vector_size(4 * LANES)));
typedef uint32_t pairs __attribute__((vector_size(4 * LANES)));
typedef bf16 halves __attribute__((vector_size(2 * LANES)));

#define APART static __attribute__((noinline))
#define UNROLL _Pragma("GCC unroll 16")

/* sum + a[0] b[0] + a[1] b[1] in every lane. */
INLINE lanes add_products(lanes sum, pairs a, pairs b) {
#ifdef __AVX512BF16__
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return sum + (lanes)(a << 16) * (lanes)(b << 16) +
           (lanes)(a & 0xFFFF0000) * (lanes)(b & 0xFFFF0000);
#endif
}

INLINE pairs everywhere(uint32_t pair) { return (pairs){} + pair; }

INLINE lanes choose(wholes first, lanes a, lanes b) {
    return (lanes)((first & (wholes)a) | (~first & (wholes)b));
}

INLINE lanes larger(lanes a, lanes b) {
#ifdef __AVX512BF16__
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

/* 2^x for x <= 0, to 4e-6; below 2^-126 it stays there. */
INLINE lanes power(lanes x) {
    x = larger(x, (lanes){} - 126.0f);
    wholes nearest = __builtin_convertvector(x - 0.5f, wholes);
    lanes part = x - __builtin_convertvector(nearest, lanes);
    lanes p = 9.6181291e-3f * part + 5.5504109e-2f;
    p = p * part + 2.4022651e-1f;
    p = p * part + 6.9314718e-1f;
    p = p * part + 1.0f;
    return p * (lanes)((nearest + 127) << 23);
}

/* Two positive numbers, rounded to bfloat16, in each lane. */
INLINE pairs join(lanes a, lanes b) {
    return (((pairs)a + 0x8000) >> 16) | (((pairs)b + 0x8000) & 0xFFFF0000);
}

INLINE uint32_t pair_at(const bf16 *place) {
    uint32_t pair;
    memcpy(&pair, place, 4);
    return pair;
}

struct tile {
    pairs query[MOST_DIM / 2];
    lanes top, total;
    /* Of exponents: the highest score so far, in powers of two, and the sum of weights. */
    float sum[LANES][MOST_DIM];
    wholes sees;
    /* How many of the keys that come each lane looks at. */
    long used;
};

INLINE void absorb_all(struct tile *tile, const bf16 *keys, const uint32_t *values, long first,
                   long count, float scale, const long dim) {
    lanes scores[BLOCK], top = tile->top;
    for (long k = 0; k < count; k += ROUND) {
        lanes dot[ROUND] = {};
        const pairs *query = tile->query;
        for (const bf16 *key = keys + k * dim, *end = key + dim; key < end; key += 2, query++)
            UNROLL for (long i = 0; i < ROUND; i++)
                dot[i] = add_products(dot[i], *query, everywhere(pair_at(key + i * dim)));
        UNROLL for (long i = 0; i < ROUND; i++) {
            wholes seen = tile->sees > (int32_t)(first + k + i);
            scores[k + i] = choose(seen, dot[i] * scale, (lanes){} + LOWEST);
            top = larger(top, scores[k + i]);
        }
    }
    lanes kept = power(tile->top - top), total = tile->total * kept;
    pairs weights[BLOCK / 2];
    for (long k = 0; k < count; k += 2) {
        lanes one = power(scores[k] - top), two = power(scores[k + 1] - top);
        total += one + two;
        weights[k / 2] = join(one, two);
    }
    tile->top = top, tile->total = total;
    const uint32_t *weight = (const uint32_t *)weights;
    for (long q = 0; q < tile->used; q += 4)
        for (long d = 0; d < dim; d += 4 * LANES) {
            lanes sum[4][4];
            UNROLL for (long i = 0; i < 16; i++)
                sum[i / 4][i % 4] = *(lanes *)&tile->sum[q + i / 4][d + i % 4 * LANES] * kept[q + i / 4];
            for (long k = 0; k < count / 2; k++) {
                const pairs *value = (const pairs *)(values + k * MOST_DIM + d);
                UNROLL for (long i = 0; i < 16; i++)
                    sum[i / 4][i % 4] = add_products(sum[i / 4][i % 4], value[i % 4],
                                                     everywhere(weight[k * LANES + q + i / 4]));
            }
            UNROLL for (long i = 0; i < 16; i++)
                *(lanes *)&tile->sum[q + i / 4][d + i % 4 * LANES] = sum[i / 4][i % 4];
        }
}

/* Take a block of keys in, of which `count` (a multiple of ROUND) are worth looking at. */
APART void absorb(struct tile *tile, const bf16 *keys, const uint32_t *values, long first,
                  long count, float scale, long dim) {
    if (dim == 64)
        absorb_all(tile, keys, values, first, count, scale, 64);
    else if (dim == 128)
        absorb_all(tile, keys, values, first, count, scale, 128);
    else
        absorb_all(tile, keys, values, first, count, scale, dim);
}

/* The next 2 * LANES numbers, or as many as are left. */
INLINE pairs pairs_at(const bf16 *place, long left) {
    pairs found = {};
    memcpy(&found, place, left < 2 * LANES ? left * sizeof(bf16) : sizeof(found));
    return found;
}

/* Pairs of the next LANES numbers of two rows, or as many as are left. */
INLINE pairs joined_at(const bf16 *one, const bf16 *two, long left) {
    halves first = {}, second = {};
    long size = left < LANES ? left * sizeof(bf16) : sizeof(first);
    memcpy(&first, one, size);
    memcpy(&second, two, size);
    return __builtin_convertvector(first, pairs) | __builtin_convertvector(second, pairs) << 16;
}

INLINE float highest(lanes x) {
#ifdef __AVX512BF16__
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (long l = 1; l < LANES; l++) most = x[l] > most ? x[l] : most;
    return most;
#endif
}

INLINE float sum_of(lanes x) {
    float sum = 0.0f;
    for (long l = 0; l < LANES; l++) sum += x[l];
    return sum;
}

/* In lane l, the sum of the l-th of LANES vectors, which are overwritten. */
INLINE lanes sums_of(lanes *each) {
#ifdef __AVX512BF16__
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    /* Of two vectors one: lanes in whose number the bit `apart` is set are the second's. */
    UNROLL for (long apart = LANES / 2; apart; apart /= 2) {
        __mmask16 second = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(apart));
        __m512i other = _mm512_xor_epi32(lane, _mm512_set1_epi32(apart));
        other = _mm512_mask_add_epi32(other, second, other, _mm512_set1_epi32(LANES));
        UNROLL for (long i = 0; i < apart; i++) {
            __m512 a = (__m512)each[i], b = (__m512)each[i + apart];
            each[i] = (lanes)_mm512_mask_blend_ps(second, a, b) +
                      (lanes)_mm512_permutex2var_ps(a, other, b);
        }
    }
    return each[0];
#else
    lanes sums;
    for (long l = 0; l < LANES; l++) sums[l] = sum_of(each[l]);
    return sums;
#endif
}

/* A few queries of one token. */
struct few {
    pairs query[FEW][MOST_DIM / 2 / LANES];
    float top[FEW];
    lanes total[FEW];
    /* Of exponents, as in a tile; what counts is the sum over lanes. */
    float sum[FEW][MOST_DIM] __attribute__((aligned(64)));
};

INLINE void look_closely(struct few *few, const long count, const bf16 *keys, const bf16 *values,
                         long n, float scale, const long dim) {
    const lanes number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (long first = 0; first < n; first += BLOCK, keys += BLOCK * dim, values += BLOCK * dim) {
        long left = n - first < BLOCK ? n - first : BLOCK;
        long rounds = (left + ROUND - 1) / ROUND;
        lanes scores[FEW][BLOCK / ROUND];
        bf16 weights[FEW][BLOCK] __attribute__((aligned(64)));
        for (long round = 0; round < rounds; round++)
            UNROLL for (long q = 0; q < count; q++) {
                lanes dot[ROUND] = {};
                UNROLL for (long i = 0; i < ROUND; i++) {
                    const bf16 *key = keys + (round * ROUND + i) * dim;
                    for (long d = 0; d < dim; d += 2 * LANES)
                        dot[i] = add_products(dot[i], few->query[q][d / 2 / LANES],
                                              pairs_at(key + d, dim - d));
                }
                wholes seen = number + (float)(round * ROUND) < (float)left;
                scores[q][round] = choose(seen, sums_of(dot) * scale, (lanes){} + LOWEST);
            }
        float kept[FEW];
        UNROLL for (long q = 0; q < count; q++) {
            lanes tops = scores[q][0];
            for (long round = 1; round < rounds; round++) tops = larger(tops, scores[q][round]);
            float most = highest(tops), top = most > few->top[q] ? most : few->top[q];
            kept[q] = power((lanes){} + (few->top[q] - top))[0];
            few->top[q] = top;
            few->total[q] *= kept[q];
            for (long round = 0; round < rounds; round++) {
                lanes weight = power(scores[q][round] - top);
                few->total[q] += weight;
                halves rounded = __builtin_convertvector(((pairs)weight + 0x8000) >> 16, halves);
                memcpy(weights[q] + round * ROUND, &rounded, sizeof(rounded));
            }
        }
        for (long d = 0; d < dim; d += 4 * LANES) {
            lanes sum[FEW][4];
            UNROLL for (long q = 0; q < count; q++)
                UNROLL for (long i = 0; i < 4; i++)
                    sum[q][i] = *(lanes *)&few->sum[q][d + i * LANES] * kept[q];
            for (long k = 0; k < rounds * ROUND; k += 2)
                UNROLL for (long i = 0; i < 4; i++) {
                    const bf16 *value = values + k * dim + d + i * LANES;
                    long there = dim - d - i * LANES;
                    if (there <= 0) break;
                    pairs joined = joined_at(value, value + dim, there);
                    UNROLL for (long q = 0; q < count; q++)
                        sum[q][i] = add_products(sum[q][i], joined,
                                                 everywhere(pair_at(weights[q] + k)));
                }
            UNROLL for (long q = 0; q < count; q++)
                UNROLL for (long i = 0; i < 4; i++)
                    *(lanes *)&few->sum[q][d + i * LANES] = sum[q][i];
        }
    }
}

/* Let `count` queries, or some more, take in n keys and values. */
APART void look_alone(struct few *few, long count, const bf16 *keys, const bf16 *values, long n,
                      float scale, long dim) {
    if (dim == 64 && count == 2)
        look_closely(few, 2, keys, values, n, scale, 64);
    else if (dim == 64 && count == 3)
        look_closely(few, 3, keys, values, n, scale, 64);
    else if (dim == 64)
        look_closely(few, FEW, keys, values, n, scale, 64);
    else if (dim == 128 && count == 2)
        look_closely(few, 2, keys, values, n, scale, 128);
    else if (dim == 128)
        look_closely(few, FEW, keys, values, n, scale, 128);
    else
        look_closely(few, FEW, keys, values, n, scale, dim);
}

/* Ask memory for n keys and values that are looked at soon: they are what decoding waits for. */
INLINE void fetch(const bf16 *keys, const bf16 *values, long n, const long dim) {
    for (long i = 0; i < n * dim; i += 32) {
        __builtin_prefetch(keys + i);
        __builtin_prefetch(values + i);
    }
}

/* Let tiles take in those of n keys and values that they see. */
INLINE void look(struct tile *tiles, long count, const bf16 *keys, const bf16 *values, long n,
                 float scale, const long dim) {
    uint32_t joined[BLOCK / 2][MOST_DIM] __attribute__((aligned(64)));
    if (dim % (4 * LANES)) memset(joined, 0, sizeof(joined));
    for (long first = 0; first < n; first += BLOCK) {
        long left = n - first < BLOCK ? (n - first + ROUND - 1) / ROUND * ROUND : BLOCK;
        for (long k = 0; k < left / 2; k++) {
            const bf16 *one = values + (first + 2 * k) * dim, *two = one + dim;
            for (long d = 0; d < dim; d++) joined[k][d] = one[d] | (uint32_t)two[d] << 16;
        }
        for (long t = 0; t < count; t++)
            absorb(tiles + t, keys + first * dim, joined[0], first, left, scale, dim);
    }
}

/* `rows` queries into as many tiles as that takes. Row r is of token r / group. */
INLINE void begin(struct tile *tiles, const bf16 *query, long rows, long group, long head_stride,
                  long token_stride, const long dim) {
    for (long r = 0; r < rows; r++) {
        struct tile *tile = tiles + r / LANES;
        long lane = r % LANES;
        if (lane == 0) {
            memset(tile, 0, sizeof(*tile));
            tile->top += LOWEST;
        }
        tile->used = lane + 1;
        const bf16 *from = query + r % group * head_stride + r / group * token_stride;
        for (long d = 0; d < dim / 2; d++) tile->query[d][lane] = pair_at(from + 2 * d);
    }
}

INLINE void finish(struct tile *tiles, long rows, bf16 *output, long group, long token_size,
                   const long dim) {
    for (long r = 0; r < rows; r++) {
        struct tile *tile = tiles + r / LANES;
        float share = 1.0f / tile->total[r % LANES];
        bf16 *to = output + r % group * dim + r / group * token_size;
        for (long d = 0; d < dim; d++) to[d] = narrow(tile->sum[r % LANES][d] * share);
    }
}

/* The next tokens of a conversation. */
struct run {
    int64_t block, row, capacity, past, first, count, shared;
};

/* Queries that are computed together: `tokens` from `first` on, of one run; or the only tokens of
   `runs` of them. */
struct task {
    int64_t run, runs, first, tokens;
};

struct sizes {
    int64_t runs, tasks, kv_heads, group, dim, prefix_capacity;
    int64_t query_head, query_token, key_head, key_token, value_head, value_token;
};

INLINE void compute(const struct task *task, long head, const bf16 *query, bf16 *output,
                    const struct run *runs, bf16 *const *caches, const struct sizes *sizes,
                    float scale) {
    long group = sizes->group, dim = sizes->dim, rows = task->tokens * group;
    long token_size = sizes->kv_heads * group * dim;
    struct tile tiles[MOST_TILES];
    query += head * group * sizes->query_head + task->first * sizes->query_token;
    output += task->first * token_size + head * group * dim;
    begin(tiles, query, rows, group, sizes->query_head, sizes->query_token, dim);
    long shared = 0, many = (rows + LANES - 1) / LANES;
    for (long r = 0; r < rows; r++) {
        const struct run *run = runs + task->run + (task->runs > 1 ? r / group : 0);
        tiles[r / LANES].sees[r % LANES] = run->shared;
        shared = run->shared > shared ? run->shared : shared;
    }
    long prefix = head * sizes->prefix_capacity * dim;
    look(tiles, many, caches[0] + prefix, caches[1] + prefix, shared, scale, dim);
    for (long one = 0; one < task->runs; one++) {
        const struct run *run = runs + task->run + one;
        long place = (run->row * sizes->kv_heads + head) * run->capacity * dim;
        const bf16 *keys = caches[2 * run->block + 2] + place;
        const bf16 *values = caches[2 * run->block + 3] + place;
        if (task->runs == 1) {
            long before = run->past + task->first - run->first;
            for (long r = 0; r < rows; r++)
                tiles[r / LANES].sees[r % LANES] = before + r / group + 1;
            look(tiles, many, keys, values, before + task->tokens, scale, dim);
            finish(tiles, rows, output, group, token_size, dim);
            continue;
        }
        if (one + 1 < task->runs) {
            const struct run *after = run + 1;
            long there = (after->row * sizes->kv_heads + head) * after->capacity * dim;
            fetch(caches[2 * after->block + 2] + there, caches[2 * after->block + 3] + there,
                  after->past < FETCHED ? after->past : FETCHED, dim);
        }
        for (long g = 0; g < group; g += FEW) {
            struct few few = {};
            long count = group - g < FEW ? group - g : FEW;
            for (long q = 0; q < count; q++) {
                struct tile *from = tiles + (one * group + g + q) / LANES;
                long lane = (one * group + g + q) % LANES;
                const bf16 *place = query + one * sizes->query_token + (g + q) * sizes->query_head;
                for (long d = 0; d < dim; d += 2 * LANES)
                    few.query[q][d / 2 / LANES] = pairs_at(place + d, dim - d);
                few.top[q] = from->top[lane];
                few.total[q] = (lanes){from->total[lane]};
                memcpy(few.sum[q], from->sum[lane], sizeof(few.sum[q]));
            }
            look_alone(&few, count, keys, values, run->past + 1, scale, dim);
            for (long q = 0; q < count; q++) {
                float share = 1.0f / sum_of(few.total[q]);
                bf16 *to = output + one * token_size + (g + q) * dim;
                for (long d = 0; d < dim; d++) to[d] = narrow(few.sum[q][d] * share);
            }
        }
    }
}

/* query [heads, tokens, dim], key and value [kv_heads, tokens, dim]: their strides are in sizes.
   output [tokens, heads, dim].
   caches: keys and values, in turn, of the shared prefix [kv_heads, prefix_capacity, dim] and of
   each block [rows, kv_heads, capacity, dim]. New keys and values are stored there. */
void attend(const bf16 *query, const bf16 *key, const bf16 *value, bf16 *output,
            const struct run *runs, const struct task *tasks, bf16 *const *caches,
            const struct sizes *sizes, double scaling) {
    long kv_heads = sizes->kv_heads, dim = sizes->dim;
    float scale = scaling * 1.4426950408889634;
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
        for (long r = 0; r < sizes->runs; r++)
            for (long h = 0; h < kv_heads; h++) {
                const struct run *run = runs + r;
                long place = ((run->row * kv_heads + h) * run->capacity + run->past) * dim;
                bf16 *keys = caches[2 * run->block + 2] + place;
                bf16 *values = caches[2 * run->block + 3] + place;
                const bf16 *k = key + h * sizes->key_head + run->first * sizes->key_token;
                const bf16 *v = value + h * sizes->value_head + run->first * sizes->value_token;
                for (long i = 0; i < run->count; i++) {
                    memcpy(keys + i * dim, k + i * sizes->key_token, dim * sizeof(bf16));
                    memcpy(values + i * dim, v + i * sizes->value_token, dim * sizeof(bf16));
                }
            }
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (long t = 0; t < sizes->tasks; t++)
            for (long h = 0; h < kv_heads; h++)
                compute(tasks + t, h, query, output, runs, caches, sizes, scale);
    }
}
