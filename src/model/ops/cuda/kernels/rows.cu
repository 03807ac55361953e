// Kernels that take rows, a block each, and sums over rows in two steps: a block sums
// some rows (`partial`, a row a block), and `sum_rows` adds those up in their order.

#include "common.cuh"

// Normalises each row of `x + y + bias` (`y` and `bias` where they are given; the sum is
// then written to `sum`). Layer norm where `centred`, else RMS norm (arXiv 1910.07467).
// `rows` says which row of `x` a block takes; its own where absent.
extern "C" __global__ void normalise(const float *x, const real *y, const float *bias,
                                     float *sum, const int *rows, const float *gain,
                                     const float *shift, float2 *statistics, real *out,
                                     int centred, float eps, int width) {
    DYNAMIC_SHARED(float, row);
    long long from = (long long)(rows ? rows[blockIdx.x] : blockIdx.x) * width;
    long long to = (long long)blockIdx.x * width;
    float total = 0;
    for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
        Four v = load4(x + from + at);
        if (y) {
            Four w = load4(y + to + at);
            Four b = bias ? load4(bias + at) : Four{{0, 0, 0, 0}};
            for (int i = 0; i < 4; i++) v.at[i] += w.at[i] + b.at[i];
            store4(sum + to + at, v);
        }
        store4(row + at, v);
        for (int i = 0; i < 4; i++) total += v.at[i];
    }
    float mean = centred ? block_sum(total) / width : 0;
    float squares = 0;
    for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4)
        for (int i = 0; i < 4; i++) squares += (row[at + i] - mean) * (row[at + i] - mean);
    float rate = rsqrtf(block_sum(squares) / width + eps);
    if (threadIdx.x == 0) statistics[blockIdx.x] = make_float2(mean, rate);
    for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
        Four g = load4(gain + at), b = shift ? load4(shift + at) : Four{{0, 0, 0, 0}}, v;
        for (int i = 0; i < 4; i++) v.at[i] = (row[at + i] - mean) * rate * g.at[i] + b.at[i];
        store4(out + to + at, v);
    }
}
ENTRY(normalise)

// The gradient of a norm's input, given that of its output, added to `above` where that
// is given; `dx` may be the same array. Written once more as `dx_narrow` where asked for. A
// block takes `each` rows and leaves the sums of its gains' and shifts' gradients.
extern "C" __global__ void normalise_back(const float *x, const int *rows,
                                          const float2 *statistics, const float *gain,
                                          const real *dy, const float *above, float *dx,
                                          real *dx_narrow, float *partial, int shifted,
                                          int centred, int width, int each, int count) {
    DYNAMIC_SHARED(float, sums);
    for (int at = threadIdx.x; at < 2 * width; at += blockDim.x) sums[at] = 0;
    __syncthreads();
    int end = min((int)(blockIdx.x + 1) * each, count);
    for (int r = blockIdx.x * each; r < end; r++) {
        long long row = (long long)(rows ? rows[r] : r) * width;
        float2 s = statistics[r];
        float straight = 0, along = 0;
        for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
            Four v = load4(x + row + at), d = load4(dy + (long long)r * width + at);
            Four g = load4(gain + at);
            for (int i = 0; i < 4; i++) {
                float unit = (v.at[i] - s.x) * s.y;
                straight += d.at[i] * g.at[i];
                along += d.at[i] * g.at[i] * unit;
                sums[at + i] += d.at[i] * unit;
                sums[width + at + i] += d.at[i];
            }
        }
        straight = centred ? block_sum(straight) / width : 0;
        along = block_sum(along) / width;
        for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
            Four v = load4(x + row + at), d = load4(dy + (long long)r * width + at);
            Four g = load4(gain + at);
            Four out = above ? load4(above + row + at) : Four{{0, 0, 0, 0}};
            for (int i = 0; i < 4; i++) {
                float unit = (v.at[i] - s.x) * s.y;
                out.at[i] += s.y * (d.at[i] * g.at[i] - straight - unit * along);
            }
            store4(dx + row + at, out);
            if (dx_narrow) store4(dx_narrow + row + at, out);
        }
    }
    __syncthreads();
    int kept = shifted ? 2 * width : width;
    for (int at = threadIdx.x; at < kept; at += blockDim.x)
        partial[(long long)blockIdx.x * kept + at] = sums[at];
}
ENTRY(normalise_back)

// The sum of each column over `each` rows a block.
extern "C" __global__ void column_sums(const real *from, float *partial, int width, int each,
                                       int count) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    int end = min((int)(blockIdx.x + 1) * each, count);
    float total = 0;
    for (int row = blockIdx.x * each; row < end; row++)
        total += wide(from[(long long)row * width + column]);
    partial[(long long)blockIdx.x * width + column] = total;
}
ENTRY(column_sums)

// The sum of each column.
extern "C" __global__ void sum_rows(const float *from, float *to, int width, int count) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float total = 0;
    for (int row = 0; row < count; row++) total += from[(long long)row * width + column];
    to[column] = total;
}
ENTRY(sum_rows)

// The sum of the squares, or of the values themselves, of `each` elements a block, and of
// one number before them where it is given.
extern "C" __global__ void block_sums(const float *from, const float *before, float *partial,
                                      int squared, int each, int count) {
    int end = min((int)(blockIdx.x + 1) * each, count);
    float total = 0;
    for (int at = blockIdx.x * each + threadIdx.x; at < end; at += blockDim.x)
        total += squared ? from[at] * from[at] : from[at];
    total = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = (before ? before[0] : 0) + total;
}
ENTRY(block_sums)

// The row of each id, plus that of its place where there are learned positions.
extern "C" __global__ void embed(const float *table, const float *positions, const int *ids,
                                 const int *places, float *out, int length, int width) {
    const float *token = table + (long long)ids[blockIdx.x] * width;
    int place = places ? places[blockIdx.x] : blockIdx.x % length;
    for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
        Four v = load4(token + at);
        if (positions) {
            Four p = load4(positions + (long long)place * width + at);
            for (int i = 0; i < 4; i++) v.at[i] += p.at[i];
        }
        store4(out + (long long)blockIdx.x * width + at, v);
    }
}
ENTRY(embed)

// Sums rows of `dy` by what they belong to: block k adds rows order[start[k] .. start[k + 1]]
// into row target[k] of `to`, in that order.
extern "C" __global__ void gather_sums(const float *dy, const int *order, const int *start,
                                       const int *target, float *to, int width) {
    int first = start[blockIdx.x], end = start[blockIdx.x + 1];
    float *row = to + (long long)target[blockIdx.x] * width;
    for (int at = threadIdx.x * 4; at < width; at += blockDim.x * 4) {
        Four total = {{0, 0, 0, 0}};
        for (int i = first; i < end; i++) {
            Four v = load4(dy + (long long)order[i] * width + at);
            for (int j = 0; j < 4; j++) total.at[j] += v.at[j];
        }
        store4(row + at, total);
    }
}
ENTRY(gather_sums)

// Weight times the cross entropy of each row of logits, and weight times `z_loss` times the
// square of the logarithm of the softmax's sum (PaLM, arXiv 2204.02311, section 5). Logits
// become `scale` times the gradient of both; what lies between `vocabulary` and `stride` is
// not touched. With a `cap` above 0 each logit l counts as cap tanh(l / cap) (Gemma 2, arXiv
// 2408.00118, section 2).
__device__ inline float capped(float logit, float cap) {
    return cap > 0 ? cap * tanhf(logit / cap) : logit;
}
extern "C" __global__ void cross_entropy(real *logits, const int *targets, const float *weights,
                                         float *losses, float *z_losses, float scale, float z_loss,
                                         float cap, int vocabulary, int stride) {
    real *row = logits + (long long)blockIdx.x * stride;
    int target = targets[blockIdx.x];
    float weight = weights[blockIdx.x], most = -INFINITY, total = 0;
    // Each thread's own maximum first, so that the row is read twice and not three times.
    for (int at = threadIdx.x; at < vocabulary; at += blockDim.x) {
        float logit = capped(wide(row[at]), cap);
        if (logit > most) {
            total *= expf(most - logit);
            most = logit;
        }
        total += expf(logit - most);
    }
    float top = block_max(most);
    total = block_sum(most == -INFINITY ? 0 : total * expf(most - top));
    float aim = capped(wide(row[target]), cap), all = logf(total) + top;
    // Nobody writes what another still reads.
    __syncthreads();
    for (int at = threadIdx.x; at < vocabulary; at += blockDim.x) {
        float logit = capped(wide(row[at]), cap), share = expf(logit - top) / total;
        float gradient = share * (1 + 2 * z_loss * all) - (at == target ? 1.0f : 0.0f);
        if (cap > 0) gradient *= 1 - (logit / cap) * (logit / cap);
        row[at] = narrow(scale * weight * gradient);
    }
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = weight * (all - aim);
        z_losses[blockIdx.x] = weight * z_loss * all * all;
    }
}
ENTRY(cross_entropy)
