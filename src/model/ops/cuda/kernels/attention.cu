// Attention forward and backward, without the matrix of scores (FlashAttention-2, arXiv
// 2307.08691): scores are computed again in the backward pass from their rows' logarithms.
//
// `qkv` holds query, key and value columns of each position; HEAD dimensions a head. Each
// position sees one range of keys of its row, `reach[2 i] .. reach[2 i + 1]`; itself and all
// before it where `reach` is absent. `logs` are the logarithms to base 2 of the sums over
// keys of 2^(score * log2 e), a number each position and head. No sum depends on timing:
// gradients of queries and of keys are two kernels, and each sum has one owner.

#include "common.cuh"

// Positions of a row that one block takes.
#define BLOCK 64

struct Range {
    int first, end;
};
__device__ inline Range seen(const int *reach, long long row, int position) {
    if (!reach) return {0, position + 1};
    return {reach[2 * (row + position)], reach[2 * (row + position) + 1]};
}

// The sum over a head of dout * out, which every score's gradient of the position needs. A
// warp a position and head.
extern "C" __global__ void attention_deltas(const real *out, const real *d_out, float *deltas,
                                            int count) {
    int at = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float total = 0;
    if (at < count)
        for (int i = lane; i < HEAD; i += LANES)
            total += wide(out[(long long)at * HEAD + i]) * wide(d_out[(long long)at * HEAD + i]);
    total = warp_sum(total);
    if (lane == 0 && at < count) deltas[at] = total;
}
ENTRY(attention_deltas)

#ifndef BF16
// The twin in single precision: a thread a position.

extern "C" __global__ void attention(const real *qkv, const int *reach, real *out, float *logs,
                                     float scale, int length, int heads, int kv_heads) {
    int position = blockIdx.x * BLOCK + threadIdx.x, head = blockIdx.y;
    if (position >= length) return;
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    const real *query = qkv + (row + position) * width + head * HEAD;
    const real *keys = qkv + row * width + (heads + head / (heads / kv_heads)) * HEAD;
    Range range = seen(reach, row, position);
    float sum[HEAD] = {0}, most = -INFINITY, total = 0;
    for (int key = range.first; key < range.end; key++) {
        const real *k = keys + key * width, *v = k + kv_heads * HEAD;
        float score = 0;
        for (int i = 0; i < HEAD; i++) score += query[i] * k[i];
        score *= scale;
        float top = fmaxf(most, score), old = exp2f(most - top), share = exp2f(score - top);
        for (int i = 0; i < HEAD; i++) sum[i] = sum[i] * old + share * v[i];
        total = total * old + share;
        most = top;
    }
    for (int i = 0; i < HEAD; i++) out[((row + position) * heads + head) * HEAD + i] = sum[i] / total;
    logs[(row + position) * heads + head] = most + log2f(total);
}

extern "C" __global__ void attention_back_queries(const real *qkv, const int *reach,
                                                  const real *d_out, const float *logs,
                                                  const float *deltas, real *d_qkv, float scale,
                                                  float scale_back, int length, int heads,
                                                  int kv_heads) {
    int position = blockIdx.x * BLOCK + threadIdx.x, head = blockIdx.y;
    if (position >= length) return;
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    long long at = (row + position) * heads + head;
    const real *query = qkv + (row + position) * width + head * HEAD;
    const real *keys = qkv + row * width + (heads + head / (heads / kv_heads)) * HEAD;
    Range range = seen(reach, row, position);
    float sum[HEAD] = {0};
    for (int key = range.first; key < range.end; key++) {
        const real *k = keys + key * width, *v = k + kv_heads * HEAD;
        float score = 0, along = 0;
        for (int i = 0; i < HEAD; i++) score += query[i] * k[i];
        for (int i = 0; i < HEAD; i++) along += d_out[at * HEAD + i] * v[i];
        float d_score = exp2f(score * scale - logs[at]) * (along - deltas[at]);
        for (int i = 0; i < HEAD; i++) sum[i] += d_score * k[i];
    }
    real *to = d_qkv + (row + position) * width + head * HEAD;
    for (int i = 0; i < HEAD; i++) to[i] = sum[i] * scale_back;
}

extern "C" __global__ void attention_back_keys(const real *qkv, const int *reach,
                                               const real *d_out, const float *logs,
                                               const float *deltas, real *d_qkv, float scale,
                                               float scale_back, int length, int heads,
                                               int kv_heads) {
    int key = blockIdx.x * BLOCK + threadIdx.x, kv_head = blockIdx.y, group = heads / kv_heads;
    if (key >= length) return;
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    long long column = (heads + kv_head) * HEAD;
    const real *k = qkv + (row + key) * width + column, *v = k + kv_heads * HEAD;
    float d_key[HEAD] = {0}, d_value[HEAD] = {0};
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int position = 0; position < length; position++) {
            Range range = seen(reach, row, position);
            if (key < range.first || range.end <= key) continue;
            long long at = (row + position) * heads + head;
            const real *query = qkv + (row + position) * width + head * HEAD;
            float score = 0, along = 0;
            for (int i = 0; i < HEAD; i++) score += query[i] * k[i];
            for (int i = 0; i < HEAD; i++) along += d_out[at * HEAD + i] * v[i];
            float share = exp2f(score * scale - logs[at]);
            float d_score = share * (along - deltas[at]);
            for (int i = 0; i < HEAD; i++) d_key[i] += d_score * query[i];
            for (int i = 0; i < HEAD; i++) d_value[i] += share * d_out[at * HEAD + i];
        }
    }
    real *to = d_qkv + (row + key) * width + column;
    for (int i = 0; i < HEAD; i++) to[i] = d_key[i] * scale_back;
    for (int i = 0; i < HEAD; i++) to[kv_heads * HEAD + i] = d_value[i];
}
#else
// On the tensor cores: a block of four warps, 16 positions each. Tiles of bf16 lie in
// shared memory with rows of PITCH elements, so that reading eight rows meets no bank twice.

#define PITCH (HEAD + 8)
#define TILE (HEAD <= 64 ? 64 : 32)
#define STEPS (HEAD / 16)

#ifndef HOST
// Four 8 x 8 matrices; each lane gives the address of one row. With `across`, transposed.
__device__ inline void load_matrices(uint32_t to[4], const real *row, bool across) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    if (across)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
// c += a b, of 16 x 16 and 16 x 8.
__device__ inline void multiply(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Rows `first ..` of a matrix into a tile of `count` rows; zeros from row `limit` on.
__device__ inline void fetch(real *tile, const real *from, long long stride, int first, int limit,
                             int count) {
    for (int at = threadIdx.x * 8; at < count * HEAD; at += blockDim.x * 8) {
        int row = at / HEAD, column = at % HEAD;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (first + row < limit)
            v = *reinterpret_cast<const uint4 *>(from + (first + row) * stride + column);
        *reinterpret_cast<uint4 *>(tile + row * PITCH + column) = v;
    }
}

// The left operands of a warp: 16 rows of a tile, HEAD columns.
__device__ inline void left(uint32_t to[STEPS][4], const real *tile, int row) {
    int lane = threadIdx.x % LANES;
    for (int step = 0; step < STEPS; step++)
        load_matrices(to[step], tile + (row + lane % 16) * PITCH + step * 16 + lane / 16 * 8, false);
}

// The left operands of a warp, of BLOCK rows from `start` on by way of a tile, which the
// block may use again.
__device__ inline void left_of(uint32_t to[STEPS][4], real *tile, const real *from,
                               long long stride, int start, int limit) {
    __syncthreads();
    fetch(tile, from, stride, start, limit, BLOCK);
    __syncthreads();
    left(to, tile, threadIdx.x / LANES * 16);
}

// c += a tile^T: 16 x HEAD times the transpose of TILE x HEAD.
__device__ inline void times_rows(float c[TILE / 8][4], const uint32_t a[STEPS][4],
                                  const real *tile) {
    int lane = threadIdx.x % LANES, row = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
    #pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
        #pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t b[4];
            load_matrices(b, tile + (j * 16 + row) * PITCH + step * 16 + column, false);
            multiply(c[2 * j], a[step], b);
            multiply(c[2 * j + 1], a[step], b + 2);
        }
    }
}

// c += p tile: 16 x TILE, as `times_rows` left it, times TILE x HEAD.
__device__ inline void times_tile(float c[HEAD / 8][4], const float p[TILE / 8][4],
                                  const real *tile) {
    int lane = threadIdx.x % LANES, row = lane / 8 % 2 * 8 + lane % 8, column = lane / 16 * 8;
    #pragma unroll
    for (int step = 0; step < TILE / 16; step++) {
        const float *even = p[2 * step], *odd = p[2 * step + 1];
        uint32_t a[4] = {pack(even[0], even[1]), pack(even[2], even[3]), pack(odd[0], odd[1]),
                         pack(odd[2], odd[3])};
        #pragma unroll
        for (int j = 0; j < HEAD / 16; j++) {
            uint32_t b[4];
            load_matrices(b, tile + (step * 16 + row) * PITCH + j * 16 + column, true);
            multiply(c[2 * j], a, b);
            multiply(c[2 * j + 1], a, b + 2);
        }
    }
}

// Writes a warp's 16 x HEAD sums, each of its two rows times a factor.
__device__ inline void keep(real *to, long long stride, int row, int limit,
                            const float c[HEAD / 8][4], float upper, float lower) {
    int lane = threadIdx.x % LANES;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int at = row + lane / 4 + half * 8;
        if (at >= limit) continue;
        float factor = half ? lower : upper;
        for (int j = 0; j < HEAD / 8; j++)
            *reinterpret_cast<uint32_t *>(to + at * stride + j * 8 + lane % 4 * 2) =
                pack(c[j][2 * half] * factor, c[j][2 * half + 1] * factor);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    attention(const real *qkv, const int *reach, real *out, float *logs, float scale, int length,
              int heads, int kv_heads) {
    __shared__ __align__(16) real queries[BLOCK * PITCH], keys[TILE * PITCH], values[TILE * PITCH];
    int head = blockIdx.y, start = blockIdx.x * BLOCK, lane = threadIdx.x % LANES;
    int warp_row = threadIdx.x / LANES * 16, stop = min(start + BLOCK, length);
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    const real *from = qkv + row * width;
    const real *key_columns = from + (heads + head / (heads / kv_heads)) * HEAD;

    uint32_t q[STEPS][4];
    left_of(q, queries, from + head * HEAD, width, start, length);

    int mine[2];
    Range range[2];
    for (int half = 0; half < 2; half++) {
        mine[half] = start + warp_row + lane / 4 + half * 8;
        range[half] = mine[half] < length ? seen(reach, row, mine[half]) : Range{0, 0};
    }
    float sum[HEAD / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    int end = seen(reach, row, stop - 1).end;
    for (int key = seen(reach, row, start).first / TILE * TILE; key < end; key += TILE) {
        __syncthreads();
        fetch(keys, key_columns, width, key, length, TILE);
        fetch(values, key_columns + kv_heads * HEAD, width, key, length, TILE);
        __syncthreads();
        float p[TILE / 8][4] = {};
        times_rows(p, q, keys);
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = most[half];
            for (int j = 0; j < TILE / 8; j++)
                for (int i = 0; i < 2; i++) {
                    int at = key + j * 8 + lane % 4 * 2 + i;
                    float &score = p[j][2 * half + i];
                    bool visible = range[half].first <= at && at < range[half].end;
                    score = visible ? score * scale : -INFINITY;
                    top = fmaxf(top, score);
                }
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
            float base = top == -INFINITY ? 0 : top, old = exp2f(most[half] - base), shares = 0;
            for (int j = 0; j < TILE / 8; j++)
                for (int i = 0; i < 2; i++) {
                    float &score = p[j][2 * half + i];
                    score = exp2f(score - base);
                    shares += score;
                }
            total[half] = total[half] * old + shares;
            most[half] = top;
            for (int j = 0; j < HEAD / 8; j++)
                for (int i = 0; i < 2; i++) sum[j][2 * half + i] *= old;
        }
        times_tile(sum, p, values);
    }
    float factor[2];
    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(FULL, total[half], 1);
        total[half] += __shfl_xor_sync(FULL, total[half], 2);
        factor[half] = 1 / total[half];
        if (lane % 4 == 0 && mine[half] < length)
            logs[(row + mine[half]) * heads + head] = most[half] + log2f(total[half]);
    }
    keep(out + row * heads * HEAD + head * HEAD, heads * HEAD, start + warp_row, length, sum,
         factor[0], factor[1]);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_back_queries(const real *qkv, const int *reach, const real *d_out, const float *logs,
                           const float *deltas, real *d_qkv, float scale, float scale_back,
                           int length, int heads, int kv_heads) {
    __shared__ __align__(16) real mine_tile[BLOCK * PITCH], keys[TILE * PITCH], values[TILE * PITCH];
    int head = blockIdx.y, start = blockIdx.x * BLOCK, lane = threadIdx.x % LANES;
    int warp_row = threadIdx.x / LANES * 16, stop = min(start + BLOCK, length);
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    const real *from = qkv + row * width;
    const real *key_columns = from + (heads + head / (heads / kv_heads)) * HEAD;

    uint32_t q[STEPS][4], d[STEPS][4];
    left_of(q, mine_tile, from + head * HEAD, width, start, length);
    left_of(d, mine_tile, d_out + (row * heads + head) * HEAD, heads * HEAD, start, length);

    Range range[2];
    float log[2], delta[2];
    for (int half = 0; half < 2; half++) {
        int mine = start + warp_row + lane / 4 + half * 8;
        bool real_row = mine < length;
        range[half] = real_row ? seen(reach, row, mine) : Range{0, 0};
        log[half] = real_row ? logs[(row + mine) * heads + head] : 0;
        delta[half] = real_row ? deltas[(row + mine) * heads + head] : 0;
    }
    float sum[HEAD / 8][4] = {};
    int end = seen(reach, row, stop - 1).end;
    for (int key = seen(reach, row, start).first / TILE * TILE; key < end; key += TILE) {
        __syncthreads();
        fetch(keys, key_columns, width, key, length, TILE);
        fetch(values, key_columns + kv_heads * HEAD, width, key, length, TILE);
        __syncthreads();
        float p[TILE / 8][4] = {}, along[TILE / 8][4] = {};
        times_rows(p, q, keys);
        times_rows(along, d, values);
        for (int j = 0; j < TILE / 8; j++)
            for (int i = 0; i < 4; i++) {
                int at = key + j * 8 + lane % 4 * 2 + i % 2, half = i / 2;
                bool visible = range[half].first <= at && at < range[half].end;
                float share = visible ? exp2f(p[j][i] * scale - log[half]) : 0;
                p[j][i] = share * (along[j][i] - delta[half]);
            }
        times_tile(sum, p, keys);
    }
    keep(d_qkv + row * width + head * HEAD, width, start + warp_row, length, sum, scale_back,
         scale_back);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_back_keys(const real *qkv, const int *reach, const real *d_out, const float *logs,
                        const float *deltas, real *d_qkv, float scale, float scale_back,
                        int length, int heads, int kv_heads) {
    __shared__ __align__(16) real mine_tile[BLOCK * PITCH];
    __shared__ __align__(16) real queries[TILE * PITCH], d_outs[TILE * PITCH];
    __shared__ float log[TILE], delta[TILE];
    __shared__ Range range[TILE];
    int kv_head = blockIdx.y, start = blockIdx.x * BLOCK, lane = threadIdx.x % LANES;
    int warp_row = threadIdx.x / LANES * 16, group = heads / kv_heads;
    long long row = (long long)blockIdx.z * length, width = (heads + 2 * kv_heads) * HEAD;
    const real *from = qkv + row * width;
    int column = (heads + kv_head) * HEAD;

    uint32_t k[STEPS][4], v[STEPS][4];
    left_of(k, mine_tile, from + column, width, start, length);
    left_of(v, mine_tile, from + column + kv_heads * HEAD, width, start, length);

    float d_key[HEAD / 8][4] = {}, d_value[HEAD / 8][4] = {};
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int query = 0; query < length; query += TILE) {
            // Ends of ranges never fall along a row, so the tile's ends tell of all of it.
            int last = min(query + TILE, length) - 1;
            if (seen(reach, row, last).end <= start) continue;
            if (seen(reach, row, query).first >= start + BLOCK) break;
            __syncthreads();
            fetch(queries, from + head * HEAD, width, query, length, TILE);
            fetch(d_outs, d_out + (row * heads + head) * HEAD, heads * HEAD, query, length, TILE);
            for (int i = threadIdx.x; i < TILE; i += blockDim.x) {
                bool real_row = query + i < length;
                long long at = (row + query + i) * heads + head;
                range[i] = real_row ? seen(reach, row, query + i) : Range{0, 0};
                log[i] = real_row ? logs[at] : 0;
                delta[i] = real_row ? deltas[at] : 0;
            }
            __syncthreads();
            float p[TILE / 8][4] = {}, along[TILE / 8][4] = {};
            times_rows(p, k, queries);
            times_rows(along, v, d_outs);
            for (int j = 0; j < TILE / 8; j++)
                for (int i = 0; i < 4; i++) {
                    int at = j * 8 + lane % 4 * 2 + i % 2;
                    int key = start + warp_row + lane / 4 + i / 2 * 8;
                    bool visible = range[at].first <= key && key < range[at].end;
                    float share = visible ? exp2f(p[j][i] * scale - log[at]) : 0;
                    p[j][i] = share;
                    along[j][i] = share * (along[j][i] - delta[at]);
                }
            times_tile(d_value, p, d_outs);
            times_tile(d_key, along, queries);
        }
    }
    real *to = d_qkv + row * width + column;
    keep(to, width, start + warp_row, length, d_key, scale_back, scale_back);
    keep(to + kv_heads * HEAD, width, start + warp_row, length, d_value, 1, 1);
}
#endif
ENTRY(attention)
ENTRY(attention_back_queries)
ENTRY(attention_back_keys)
