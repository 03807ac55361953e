// What all kernels share. `real` is the type of activations: bf16, or float where the
// build is without BF16 (the twin that parity is proved with). Sums and statistics are
// single precision, and every sum has one order: no atomics.
//
// No header is needed: the runtime compiler finds everything here. Compiled with HOST
// (see host.h), the same source runs on a processor.

#ifdef HOST
#include "host.h"
#else
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
#define ENTRY(kernel)
#define INFINITY __int_as_float(0x7f800000)
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

#define LANES 32
#define FULL 0xffffffffu

#ifdef BF16
struct real {
    uint16_t bits;
};
__device__ inline float wide(real x) { return __uint_as_float(uint32_t(x.bits) << 16); }
// To the nearest, ties to even.
__device__ inline real narrow(float x) {
    real y;
#ifdef HOST
    uint32_t bits = __float_as_uint(x);
    y.bits = x != x ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#endif
    return y;
}
// Two neighbours in one register, the first in the lower half.
__device__ inline uint32_t pack(float first, float second) {
    return uint32_t(narrow(first).bits) | uint32_t(narrow(second).bits) << 16;
}
#else
typedef float real;
__device__ inline float wide(real x) { return x; }
__device__ inline real narrow(float x) { return x; }
#endif

// Four neighbours; addresses are aligned to four elements.
struct Four {
    float at[4];
};
__device__ inline Four load4(const float *from) {
    float4 v = *reinterpret_cast<const float4 *>(from);
    return {{v.x, v.y, v.z, v.w}};
}
__device__ inline void store4(float *to, const Four &v) {
    *reinterpret_cast<float4 *>(to) = make_float4(v.at[0], v.at[1], v.at[2], v.at[3]);
}
#ifdef BF16
__device__ inline Four load4(const real *from) {
    uint2 v = *reinterpret_cast<const uint2 *>(from);
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
             __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)}};
}
__device__ inline void store4(real *to, const Four &v) {
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack(v.at[0], v.at[1]), pack(v.at[2], v.at[3]));
}
#endif

__device__ inline float warp_sum(float x) {
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(FULL, x, step);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int step = LANES / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, step));
    return x;
}

// The sum over the threads of a block, for all of them; a block is whole warps.
__device__ inline float block_sum(float x) {
    __shared__ float sums[LANES];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % LANES == 0) sums[threadIdx.x / LANES] = x;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < blockDim.x / LANES; warp++) total += sums[warp];
    return total;
}
__device__ inline float block_max(float x) {
    __shared__ float most[LANES];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % LANES == 0) most[threadIdx.x / LANES] = x;
    __syncthreads();
    float total = most[0];
    for (int warp = 1; warp < blockDim.x / LANES; warp++) total = fmaxf(total, most[warp]);
    return total;
}
