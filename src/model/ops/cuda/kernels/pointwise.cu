// Kernels that take each element by itself, four to a thread: `count` is a multiple of 4
// and so are the widths.

#include "common.cuh"

// A copy in the precision of activations.
extern "C" __global__ void narrowed(const float *from, real *to, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at < count) store4(to + at, load4(from + at));
}
ENTRY(narrowed)

// Numbers of 16 bits as numbers of 32.
extern "C" __global__ void widened(const uint16_t *from, int *to, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= count) return;
    uint2 v = *reinterpret_cast<const uint2 *>(from + at);
    to[at] = v.x & 0xffff;
    to[at + 1] = v.x >> 16;
    to[at + 2] = v.y & 0xffff;
    to[at + 3] = v.y >> 16;
}
ENTRY(widened)

// The same number everywhere.
extern "C" __global__ void fill(float *to, float value, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at < count) store4(to + at, {{value, value, value, value}});
}
ENTRY(fill)

// out = x + y + bias, the bias of each column if there is one.
extern "C" __global__ void add(const float *x, const real *y, const float *bias, float *out,
                               int width, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= count) return;
    Four v = load4(x + at), w = load4(y + at);
    Four b = bias ? load4(bias + at % width) : Four{{0, 0, 0, 0}};
    for (int i = 0; i < 4; i++) v.at[i] += w.at[i] + b.at[i];
    store4(out + at, v);
}
ENTRY(add)

// Adds the bias, if there is one, and turns queries and keys by the position's angle
// (rotary embedding, arXiv 2104.09864, halves of a head): forward, or back with `sign` -1.
// A thread takes one pair of a head's elements; values are not turned.
extern "C" __global__ void turn(real *qkv, const float *bias, const float *cosines,
                                const float *sines, const int *places, float sign, int positions,
                                int length, int turned, int heads, int head) {
    int half = head / 2, at = blockIdx.x * blockDim.x + threadIdx.x;
    int width = heads * head, pairs = heads * half;
    int position = at / pairs, which = at % pairs / half, i = at % half;
    if (position >= positions) return;
    int column = which * head + i;
    real *first = qkv + (long long)position * width + column, *second = first + half;
    float a = wide(*first), b = wide(*second);
    if (bias) a += bias[column], b += bias[column + half];
    if (which < turned) {
        int place = places ? places[position] : position % length;
        float c = cosines[place * half + i], s = sign * sines[place * half + i];
        float turned_a = a * c - b * s;
        b = b * c + a * s;
        a = turned_a;
    }
    *first = narrow(a);
    *second = narrow(b);
}
ENTRY(turn)

// GELU by its tanh form (arXiv 1606.08415, section 2), as x * sigmoid(z).
__device__ inline float gelu_argument(float x) {
    return 1.5957691216057308f * (x + 0.044715f * x * x * x);
}
__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// Adds the bias in place and writes the activated layer: GELU of `width` columns, or, with
// `gated`, SiLU of the first `width` columns times the others (SwiGLU, arXiv 2002.05202).
extern "C" __global__ void activate(real *up, const float *bias, real *active, int gated,
                                    int width, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= count) return;
    int column = at % width;
    real *gate = up + (long long)(at / width) * (gated ? 2 * width : width) + column;
    Four g = load4(gate), out;
    if (bias) {
        Four b = load4(bias + column);
        for (int i = 0; i < 4; i++) g.at[i] += b.at[i];
        store4(gate, g);
    }
    if (gated) {
        Four u = load4(gate + width);
        if (bias) {
            Four b = load4(bias + width + column);
            for (int i = 0; i < 4; i++) u.at[i] += b.at[i];
            store4(gate + width, u);
        }
        for (int i = 0; i < 4; i++) out.at[i] = g.at[i] * sigmoid(g.at[i]) * u.at[i];
    } else {
        for (int i = 0; i < 4; i++) out.at[i] = g.at[i] * sigmoid(gelu_argument(g.at[i]));
    }
    store4(active + at, out);
}
ENTRY(activate)

// Turns the gradient of the activated layer into that of `up`, and the array that held it
// into the activated layer once more.
extern "C" __global__ void activate_back(const real *up, real *active, real *d_up, int gated,
                                         int width, int count) {
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= count) return;
    long long start = (long long)(at / width) * (gated ? 2 * width : width) + at % width;
    Four g = load4(up + start), d = load4(active + at), d_gate, out;
    if (gated) {
        Four u = load4(up + start + width), d_linear;
        for (int i = 0; i < 4; i++) {
            float s = sigmoid(g.at[i]), silu = g.at[i] * s;
            out.at[i] = silu * u.at[i];
            d_linear.at[i] = d.at[i] * silu;
            d_gate.at[i] = d.at[i] * u.at[i] * (s + silu * (1 - s));
        }
        store4(d_up + start + width, d_linear);
    } else {
        for (int i = 0; i < 4; i++) {
            float x = g.at[i], s = sigmoid(gelu_argument(x));
            float slope = 1.5957691216057308f * (1 + 3 * 0.044715f * x * x);
            out.at[i] = x * s;
            d_gate.at[i] = d.at[i] * (s + x * s * (1 - s) * slope);
        }
    }
    store4(d_up + start, d_gate);
    store4(active + at, out);
}
ENTRY(activate_back)

// What a step comes to, by one thread: the means of cross entropy and z-loss, the norm of
// the gradient, and what it is multiplied with, which is not a number where any of the
// others is not finite.
extern "C" __global__ void numbers(const float *sums, const float *squares, float *out, float mean,
                                   float clip) {
    if (threadIdx.x != 0 || blockIdx.x != 0) return;
    float entropy = sums[0] * mean, z_loss = sums[1] * mean, norm = sqrtf(squares[0]);
    float scale = norm <= clip ? 1 : clip / norm;
    out[0] = entropy;
    out[1] = z_loss;
    out[2] = norm;
    out[3] = scale + 0 * entropy + 0 * z_loss + 0 * norm;
}
ENTRY(numbers)

// One step of AdamW (arXiv 1711.05101), or none where the numbers of the step say so; what is
// written may be what is read.
extern "C" __global__ void adamw(const float *parameters, const float *gradient,
                                 const float *first, const float *second, float *new_parameters,
                                 float *new_first, float *new_second, const float *numbers,
                                 float beta1, float beta2, float eps, float rate,
                                 float correction2, float keep, int count) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    float p = parameters[at], m = first[at], v = second[at], scale = numbers[3];
    if (scale == scale) {
        float g = gradient[at] * scale;
        m = beta1 * m + (1 - beta1) * g;
        v = beta2 * v + (1 - beta2) * g * g;
        p = p * keep - rate * m / (sqrtf(v / correction2) + eps);
    }
    new_first[at] = m;
    new_second[at] = v;
    new_parameters[at] = p;
}
ENTRY(adamw)
