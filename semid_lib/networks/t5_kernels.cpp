// The passes of a T5's training step that are no matrix product over all rows: dropout, residual
// sum and RMS norm in one; ReLU and dropout in one; attention within a sample. `t5_fused.py` says
// what each is, compiles this file and calls it.
//
// Rows are packed: sample b's are start[b] .. start[b + 1] - 1. T is float, or bf16 kept as uint16.
// Arithmetic is in float32. Each function works on blocks first .. last - 1 of the rows or samples
// and sums what runs over rows into its block's own place, so that the threads' number, which only
// shares out the blocks, changes no result.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef uint16_t half;
typedef float lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t whole __attribute__((vector_size(64), aligned(4)));
static const int WIDE = 16, TILE = 4;  // numbers of `lanes`; queries taken at once
static const whole FIRST = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline float widen(float x) { return x; }
static inline float widen(half x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline void store(float* place, float x) { *place = x; }
static inline void store(half* place, float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *place = half((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Whether each number is dropped: two rounds of a 32-bit mixer, a key before each.
struct Drop {
    uint32_t key, other, limit;  // dropped if the hash lies below the limit
    float scale;                 // what the others are multiplied by
};
static inline float kept(const Drop& drop, uint32_t index) {
    uint32_t x = index ^ drop.key;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = ((x ^ (x >> 15)) + drop.other) * 0x846ca68bu;
    x = (x ^ (x >> 16)) * 0x9e3779b1u;
    x ^= x >> 15;
    return x < drop.limit ? 0.0f : drop.scale;
}

// e^x for x <= 0, to 2 units in the last place; 0 below -87.
static inline lanes exponential(lanes x) {
    lanes t = x * 1.44269504f;
    t = t < -126.0f ? lanes{} - 126.0f : t;
    whole n = __builtin_convertvector(t - 0.5f, whole);  // the nearest, since t <= 0
    lanes f = t - __builtin_convertvector(n, lanes);
    lanes p = f * 1.5403530e-4f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    p = (lanes)((whole)p + (n << 23));
    return x < -87.0f ? lanes{} : p;
}

static const long ROWS = 256, SAMPLES = 16;  // of a block

// x' = x + dropout(y), n = dropout'(x' / rms(x') w)
template <class Y, class T>
static void add_norm(const float* x, const Y* y, const float* w, float* sum, T* n, long rows,
                     long dim, Drop drop, Drop after, long first, long last) {
    for (long r = first * ROWS; r < last * ROWS && r < rows; r++) {
        const float* in = x ? x + r * dim : nullptr;
        const Y* add = y + r * dim;
        float* out = sum + r * dim;
        T* normed = n + r * dim;
        float square = 0;
        uint32_t at = uint32_t(r * dim);
        if (in) {
#pragma omp simd reduction(+ : square)
            for (long d = 0; d < dim; d++) {
                float v = in[d] + widen(add[d]) * kept(drop, at + uint32_t(d));
                out[d] = v;
                square += v * v;
            }
        } else {
#pragma omp simd reduction(+ : square)
            for (long d = 0; d < dim; d++) {
                float v = widen(add[d]) * kept(drop, at + uint32_t(d));
                out[d] = v;
                square += v * v;
            }
        }
        float scale = 1 / std::sqrt(square / dim + 1e-6f);
        if (after.limit) {
#pragma omp simd
            for (long d = 0; d < dim; d++)
                store(normed + d, out[d] * scale * w[d] * kept(after, at + uint32_t(d)));
        } else {
#pragma omp simd
            for (long d = 0; d < dim; d++) store(normed + d, out[d] * scale * w[d]);
        }
    }
}

// The gradients gx of x, gy of y, and the blocks' parts `[blocks, dim]` of w's.
template <class Y, class T>
static void add_norm_back(const float* sum, const float* w, const float* gsum, const T* gn,
                          float* gx, Y* gy, float* gw, long rows, long dim, Drop drop, Drop after,
                          long first, long last) {
    std::vector<float> room(2 * dim);
    float *g = room.data(), *own = g + dim;
    for (long block = first; block < last; block++) {
        for (long d = 0; d < dim; d++) own[d] = 0;
        for (long r = block * ROWS; r < (block + 1) * ROWS && r < rows; r++) {
            const float* s = sum + r * dim;
            const float* other = gsum ? gsum + r * dim : nullptr;
            const T* from = gn + r * dim;
            uint32_t at = uint32_t(r * dim);
            float square = 0, along = 0;
            if (after.limit) {
#pragma omp simd
                for (long d = 0; d < dim; d++)
                    g[d] = widen(from[d]) * kept(after, at + uint32_t(d));
            } else {
#pragma omp simd
                for (long d = 0; d < dim; d++) g[d] = widen(from[d]);
            }
#pragma omp simd reduction(+ : square, along)
            for (long d = 0; d < dim; d++) {
                square += s[d] * s[d];
                along += g[d] * w[d] * s[d];
            }
            float scale = 1 / std::sqrt(square / dim + 1e-6f);
            float pull = along * scale * scale * scale / dim;
            float* out = gx + r * dim;
            Y* add = gy + r * dim;
#pragma omp simd
            for (long d = 0; d < dim; d++) {
                own[d] += g[d] * s[d] * scale;
                float v = g[d] * w[d] * scale - s[d] * pull;
                g[d] = other ? v + other[d] : v;
            }
            if (gx) {
#pragma omp simd
                for (long d = 0; d < dim; d++) out[d] = g[d];
            }
#pragma omp simd
            for (long d = 0; d < dim; d++) store(add + d, g[d] * kept(drop, at + uint32_t(d)));
        }
        memcpy(gw + block * dim, own, dim * sizeof(float));
    }
}

// h <- relu(dropout(h))
template <class T>
static void relu_drop(T* h, long rows, long dim, Drop drop, long first, long last) {
    for (long r = first * ROWS; r < last * ROWS && r < rows; r++) {
        T* row = h + r * dim;
        uint32_t at = uint32_t(r * dim);
#pragma omp simd
        for (long d = 0; d < dim; d++) {
            float v = widen(row[d]) * kept(drop, at + uint32_t(d));
            store(row + d, v > 0 ? v : 0.0f);
        }
    }
}

// g <- g scale where a, what relu_drop wrote, is not 0
template <class T>
static void relu_drop_back(T* g, const T* a, long rows, long dim, Drop drop, long first,
                           long last) {
    for (long r = first * ROWS; r < last * ROWS && r < rows; r++) {
        T* row = g + r * dim;
        const T* seen = a + r * dim;
#pragma omp simd
        for (long d = 0; d < dim; d++)
            store(row + d, widen(seen[d]) > 0 ? widen(row[d]) * drop.scale : 0.0f);
    }
}

// Where the queries, keys and values of a sample's head lie: rows of `stride` numbers.
template <class T>
struct Heads {
    T* at;
    long stride;
};

template <class T, int D>
static void across(Heads<const T> x, long rows, long wide, float* out) {  // out[d][row]
    for (long j = 0; j < rows; j++)
        for (int d = 0; d < D; d++) out[d * wide + j] = widen(x.at[j * x.stride + d]);
    for (int d = 0; d < D; d++)
        for (long j = rows; j < wide; j++) out[d * wide + j] = 0;
}

template <class T, int D>
static void copied(Heads<const T> x, long rows, long wide, float* out) {  // out[row][d]
    for (long j = 0; j < rows; j++)
#pragma omp simd
        for (int d = 0; d < D; d++) out[j * D + d] = widen(x.at[j * x.stride + d]);
    memset(out + rows * D, 0, (wide - rows) * D * sizeof(float));
}

// The next three have a name for each sum, since gcc keeps arrays of sums in memory, and take two
// vectors at once, so that a number read for all lanes serves both.

static inline lanes& at(float* place) { return *(lanes*)place; }
static inline lanes at(const float* place) { return *(const lanes*)place; }

// out[TILE][wide] = a[TILE][D] b[D][wide]; `wide` is a multiple of WIDE
template <int D>
static void products(const float* a, const float* b, long wide, float* out) {
    for (long j = 0; j < wide; j += 2 * WIDE) {
        long k = j + WIDE < wide ? j + WIDE : j;
        lanes s0 = {}, s1 = {}, s2 = {}, s3 = {}, t0 = {}, t1 = {}, t2 = {}, t3 = {};
        for (int d = 0; d < D; d++) {
            lanes left = at(b + d * wide + j), right = at(b + d * wide + k);
            lanes a0 = lanes{} + a[d], a1 = lanes{} + a[D + d];
            lanes a2 = lanes{} + a[2 * D + d], a3 = lanes{} + a[3 * D + d];
            s0 += a0 * left, s1 += a1 * left, s2 += a2 * left, s3 += a3 * left;
            t0 += a0 * right, t1 += a1 * right, t2 += a2 * right, t3 += a3 * right;
        }
        at(out + j) = s0, at(out + wide + j) = s1;
        at(out + 2 * wide + j) = s2, at(out + 3 * wide + j) = s3;
        at(out + k) = t0, at(out + wide + k) = t1;
        at(out + 2 * wide + k) = t2, at(out + 3 * wide + k) = t3;
    }
}

// out[TILE][D] = a[TILE][rows] b[rows][D]
template <int D>
static void mixed(const float* a, const float* b, long rows, long wide, float* out) {
    for (int c = 0; c < D; c += 2 * WIDE) {
        const int e = D > WIDE ? c + WIDE : c;
        lanes s0 = {}, s1 = {}, s2 = {}, s3 = {}, t0 = {}, t1 = {}, t2 = {}, t3 = {};
        for (long j = 0; j < rows; j++) {
            lanes left = at(b + j * D + c), right = at(b + j * D + e);
            lanes a0 = lanes{} + a[j], a1 = lanes{} + a[wide + j];
            lanes a2 = lanes{} + a[2 * wide + j], a3 = lanes{} + a[3 * wide + j];
            s0 += a0 * left, s1 += a1 * left, s2 += a2 * left, s3 += a3 * left;
            t0 += a0 * right, t1 += a1 * right, t2 += a2 * right, t3 += a3 * right;
        }
        at(out + c) = s0, at(out + D + c) = s1;
        at(out + 2 * D + c) = s2, at(out + 3 * D + c) = s3;
        at(out + e) = t0, at(out + D + e) = t1;
        at(out + 2 * D + e) = t2, at(out + 3 * D + e) = t3;
    }
}

// out[rows][D] += a[TILE][rows]^T b[TILE][D]
template <int D>
static void outer(const float* a, const float* b, long rows, long wide, float* out) {
    for (int c = 0; c < D; c += 2 * WIDE) {
        const int e = D > WIDE ? c + WIDE : c;
        lanes b0 = at(b + c), b1 = at(b + D + c), b2 = at(b + 2 * D + c), b3 = at(b + 3 * D + c);
        lanes d0 = at(b + e), d1 = at(b + D + e), d2 = at(b + 2 * D + e), d3 = at(b + 3 * D + e);
        for (long j = 0; j < rows; j++) {
            lanes a0 = lanes{} + a[j], a1 = lanes{} + a[wide + j];
            lanes a2 = lanes{} + a[2 * wide + j], a3 = lanes{} + a[3 * wide + j];
            float* to = out + j * D;
            lanes left = at(to + c) + a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3;
            lanes right = at(to + e) + a0 * d0 + a1 * d1 + a2 * d2 + a3 * d3;
            at(to + c) = left;
            at(to + e) = right;
        }
    }
}

static inline float highest(lanes x) {
    float most = x[0];
#pragma omp simd reduction(max : most)
    for (int i = 0; i < WIDE; i++) most = x[i] > most ? x[i] : most;
    return most;
}

static inline float total(lanes x) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < WIDE; i++) sum += x[i];
    return sum;
}

// Softmax of TILE rows p[wide] of scores + bias, over the first seen[t] of each; 0 for the others.
// So many numbers of `bias` can be read. The rows are taken together, since each alone waits.
static void softmax(float* p, const long* seen, long here, long wide, const float* bias) {
    lanes most[TILE], sum[TILE];
    for (int t = 0; t < TILE; t++) {
        float* row = p + t * wide;
        lanes top = lanes{} - INFINITY;
        for (long j = 0; j < wide; j += WIDE) {
            lanes x = *(lanes*)(row + j);
            if (bias) x += *(const lanes*)(bias - (t < here ? t : 0) + j);
            x = int32_t(seen[t] - j) > FIRST ? x : lanes{} - INFINITY;
            *(lanes*)(row + j) = x;
            top = x > top ? x : top;
        }
        most[t] = lanes{} + highest(top);
    }
    for (int t = 0; t < TILE; t++) {
        float* row = p + t * wide;
        sum[t] = lanes{};
        for (long j = 0; j < wide; j += WIDE) {
            lanes x = exponential(*(lanes*)(row + j) - most[t]);
            *(lanes*)(row + j) = x;
            sum[t] += x;
        }
    }
    for (int t = 0; t < TILE; t++) {
        float* row = p + t * wide;
        lanes share = lanes{} + 1 / total(sum[t]);
        for (long j = 0; j < wide; j += WIDE) *(lanes*)(row + j) *= share;
    }
}

// What one call of attention is about; the same in `t5_fused.py`.
struct Attention {
    const void *q, *kv;                     // q `[*, q_stride]`; keys, values `[*, kv_stride]`
    const int64_t *q_start, *kv_start;      // `[samples + 1]`
    const float* bias;                      // `[heads, 2 most]` of key - query, or null
    int64_t q_stride, k_column, v_column, kv_stride, samples, heads, longest, causal;
    Drop drop;
};

template <class T, int D>
static void attend(const Attention& a, T* out, long first, long last) {
    const Drop drop = a.drop;
    long most = (a.longest + WIDE - 1) / WIDE * WIDE, span = 2 * most;
    std::vector<float> room(most * (2 * D + TILE) + 2 * TILE * D);
    float *keys = room.data(), *values = keys + most * D, *p = values + most * D;
    float *q = p + TILE * most, *o = q + TILE * D;
    for (long b = first * SAMPLES; b < last * SAMPLES && b < a.samples; b++)
        for (long h = 0; h < a.heads; h++) {
            long begin = a.q_start[b], rows = a.q_start[b + 1] - begin;
            long from = a.kv_start[b], count = a.kv_start[b + 1] - from;
            long wide = (count + WIDE - 1) / WIDE * WIDE;
            const T* base = (const T*)a.kv + from * a.kv_stride + h * D;
            Heads<const T> query = {(const T*)a.q + begin * a.q_stride + h * D, a.q_stride};
            across<T, D>({base + a.k_column, a.kv_stride}, count, wide, keys);
            copied<T, D>({base + a.v_column, a.kv_stride}, count, wide, values);
            for (long i = 0; i < rows; i += TILE) {
                long here = rows - i < TILE ? rows - i : TILE;
                copied<T, D>({query.at + i * query.stride, query.stride}, here, TILE, q);
                products<D>(q, keys, wide, p);
                long seen[TILE], offset = h * span + a.longest - 1 - i;
                for (long t = 0; t < TILE; t++)
                    seen[t] = a.causal && i + t < count ? i + t + 1 : count;
                softmax(p, seen, here, wide, a.bias ? a.bias + offset : nullptr);
                for (long t = 0; t < here; t++) {
                    uint32_t at = uint32_t(((begin + i + t) * a.heads + h) * a.longest);
                    float* row = p + t * wide;
                    if (drop.limit) {
#pragma omp simd
                        for (long j = 0; j < wide; j++) row[j] *= kept(drop, at + uint32_t(j));
                    }
                }
                mixed<D>(p, values, count, wide, o);
                for (long t = 0; t < here; t++) {
                    T* to = out + ((begin + i + t) * a.heads + h) * D;
#pragma omp simd
                    for (int d = 0; d < D; d++) store(to + d, o[t * D + d]);
                }
            }
        }
}

// Gradients: of q, keys and values at the places of the values, and the blocks' parts of the bias's
template <class T, int D>
static void attend_back(const Attention& a, const T* g_out, T* gq, T* gkv, float* g_bias,
                        long first, long last) {
    const Drop drop = a.drop;
    long most = (a.longest + WIDE - 1) / WIDE * WIDE, span = 2 * most;
    std::vector<float> room(most * (5 * D + 3 * TILE) + 3 * TILE * D);
    float *keys = room.data(), *rows_k = keys + most * D, *values = rows_k + most * D;
    float *gk = values + most * D, *gv = gk + most * D, *p = gv + most * D;
    float *gp = p + TILE * most, *dropped = gp + TILE * most, *q = dropped + TILE * most;
    float *go = q + TILE * D, *grad = go + TILE * D;
    for (long b = first * SAMPLES; b < last * SAMPLES && b < a.samples; b++)
        for (long h = 0; h < a.heads; h++) {
            long begin = a.q_start[b], rows = a.q_start[b + 1] - begin;
            long from = a.kv_start[b], count = a.kv_start[b + 1] - from;
            long wide = (count + WIDE - 1) / WIDE * WIDE;
            const T* base = (const T*)a.kv + from * a.kv_stride + h * D;
            Heads<const T> query = {(const T*)a.q + begin * a.q_stride + h * D, a.q_stride};
            across<T, D>({base + a.k_column, a.kv_stride}, count, wide, keys);
            copied<T, D>({base + a.k_column, a.kv_stride}, count, wide, rows_k);
            across<T, D>({base + a.v_column, a.kv_stride}, count, wide, values);
            memset(gk, 0, wide * D * sizeof(float));
            memset(gv, 0, wide * D * sizeof(float));
            for (long i = 0; i < rows; i += TILE) {
                long here = rows - i < TILE ? rows - i : TILE;
                copied<T, D>({query.at + i * query.stride, query.stride}, here, TILE, q);
                long place = ((begin + i) * a.heads + h) * D;
                copied<T, D>({g_out + place, a.heads * D}, here, TILE, go);
                products<D>(q, keys, wide, p);
                products<D>(go, values, wide, gp);
                long seen[TILE], offset = h * span + a.longest - 1 - i;
                for (long t = 0; t < TILE; t++)
                    seen[t] = a.causal && i + t < count ? i + t + 1 : count;
                softmax(p, seen, here, wide, a.bias ? a.bias + offset : nullptr);
                for (long t = 0; t < here; t++) {
                    float *row = p + t * wide, *g = gp + t * wide, *d = dropped + t * wide;
                    uint32_t at = uint32_t(((begin + i + t) * a.heads + h) * a.longest);
                    float along = 0;
#pragma omp simd reduction(+ : along)
                    for (long j = 0; j < wide; j++) {
                        float mask = kept(drop, at + uint32_t(j));
                        d[j] = row[j] * mask;
                        g[j] *= mask;
                        along += g[j] * row[j];
                    }
#pragma omp simd
                    for (long j = 0; j < wide; j++) g[j] = row[j] * (g[j] - along);
                    if (g_bias) {
                        float* to = g_bias + (b / SAMPLES) * a.heads * span + offset - t;
#pragma omp simd
                        for (long j = 0; j < wide; j++) to[j] += g[j];
                    }
                }
                for (long t = here; t < TILE; t++) {
                    memset(gp + t * wide, 0, wide * sizeof(float));
                    memset(dropped + t * wide, 0, wide * sizeof(float));
                }
                mixed<D>(gp, rows_k, count, wide, grad);
                outer<D>(gp, q, count, wide, gk);
                outer<D>(dropped, go, count, wide, gv);
                for (long t = 0; t < here; t++) {
                    T* to = gq + (begin + i + t) * a.q_stride + h * D;
#pragma omp simd
                    for (int d = 0; d < D; d++) store(to + d, grad[t * D + d]);
                }
            }
            for (long j = 0; j < count; j++) {
                T* to = gkv + (from + j) * a.kv_stride + h * D;
#pragma omp simd
                for (int d = 0; d < D; d++) store(to + a.k_column + d, gk[j * D + d]);
#pragma omp simd
                for (int d = 0; d < D; d++) store(to + a.v_column + d, gv[j * D + d]);
            }
        }
}

#define NORM(name, Y, T)                                                                          \
    void add_norm_##name(const float* x, const Y* y, const float* w, float* sum, T* n, long rows,  \
                         long dim, const Drop* drop, const Drop* after, long first, long last) {   \
        add_norm<Y, T>(x, y, w, sum, n, rows, dim, *drop, *after, first, last);                    \
    }                                                                                             \
    void add_norm_back_##name(const float* sum, const float* w, const float* gsum, const T* gn,    \
                              float* gx, Y* gy, float* gw, long rows, long dim, const Drop* drop,  \
                              const Drop* after, long first, long last) {                          \
        add_norm_back<Y, T>(sum, w, gsum, gn, gx, gy, gw, rows, dim, *drop, *after, first, last);  \
    }
#define REST(name, T)                                                                             \
    void relu_drop_##name(T* h, long rows, long dim, const Drop* drop, long first, long last) {    \
        relu_drop<T>(h, rows, dim, *drop, first, last);                                            \
    }                                                                                             \
    void relu_drop_back_##name(T* g, const T* a, long rows, long dim, const Drop* drop,            \
                               long first, long last) {                                            \
        relu_drop_back<T>(g, a, rows, dim, *drop, first, last);                                    \
    }                                                                                             \
    void attend_##name(const Attention* a, long head_dim, T* out, long first, long last) {         \
        if (head_dim == 16) attend<T, 16>(*a, out, first, last);                                   \
        if (head_dim == 32) attend<T, 32>(*a, out, first, last);                                   \
        if (head_dim == 64) attend<T, 64>(*a, out, first, last);                                   \
    }                                                                                             \
    void attend_back_##name(const Attention* a, long head_dim, const T* g, T* gq, T* gkv,          \
                            float* g_bias, long first, long last) {                                \
        if (head_dim == 16) attend_back<T, 16>(*a, g, gq, gkv, g_bias, first, last);               \
        if (head_dim == 32) attend_back<T, 32>(*a, g, gq, gkv, g_bias, first, last);               \
        if (head_dim == 64) attend_back<T, 64>(*a, g, gq, gkv, g_bias, first, last);               \
    }

extern "C" {
NORM(float_float, float, float)
NORM(float_half, float, half)
NORM(half_half, half, half)
REST(float, float)
REST(half, half)
}
