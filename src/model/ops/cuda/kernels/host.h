// Runs the kernels on a processor, to test them without a GPU: block after block, the
// threads of a block as fibers that hand over where threads of a GPU wait for each other.
// A warp whose lanes wait at different places, which hangs a GPU, ends the program.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __shared__ static
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(host::arena)

// Aligned as on a GPU, where an address that is not faults; here it ends the program too.
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static float __uint_as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static uint32_t __float_as_uint(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static float rsqrtf(float x) { return 1 / sqrtf(x); }
static int min(int a, int b) { return a < b ? a : b; }

struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim;

namespace host {
enum State { READY, AT_WARP, AT_BLOCK, ENDED };
const int THREADS = 256, STACK = 256 << 10, WARP = 32;
static char arena[256 << 10] __attribute__((aligned(16)));
static ucontext_t fibers[THREADS];
static jmp_buf scheduler, places[THREADS];
static State states[THREADS];
static int current, made;
// What the lanes of a warp show each other.
struct Shown { uint32_t words[8]; const void *address; };
static Shown shown[THREADS];
static void (*body)(void **);
static void **given;

// Jumps, as switching whole contexts asks the system for its signal masks each time.
static void hand_over(State state) {
    states[current] = state;
    if (!_setjmp(places[current])) _longjmp(scheduler, 1);
}
static void begin() {
    for (;;) {
        body(given);
        hand_over(ENDED);
    }
}
static void resume(int i) {
    current = i;
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler)) return;
    if (i < made) _longjmp(places[i], 1);
    made++;
    getcontext(&fibers[i]);
    fibers[i].uc_stack = {malloc(STACK), 0, size_t(STACK)};
    makecontext(&fibers[i], begin, 0);
    setcontext(&fibers[i]);
}
static bool run_warp(int first) {
    bool any = false;
    for (int i = first; i < first + WARP; i++) {
        if (states[i] != READY) continue;
        any = true;
        resume(i);
    }
    int waiting = 0, at_block = 0;
    for (int i = first; i < first + WARP; i++) {
        waiting += states[i] == AT_WARP;
        at_block += states[i] == AT_BLOCK;
    }
    if (waiting == 0) return any;
    if (waiting != WARP) {
        fprintf(stderr, "lanes of a warp wait at different places\n");
        abort();
    }
    for (int i = first; i < first + WARP; i++) states[i] = READY;
    return true;
}
static void run_block(int shared) {
    for (int i = 0; i < blockDim.x; i++) states[i] = READY;
    // What a block did not write is not there: not what another left.
    memset(arena, 0xff, shared);
    for (;;) {
        bool any = false;
        for (int first = 0; first < blockDim.x; first += WARP)
            while (run_warp(first)) any = true;
        int waiting = 0, ended = 0;
        for (int i = 0; i < blockDim.x; i++) {
            waiting += states[i] == AT_BLOCK;
            ended += states[i] == ENDED;
        }
        if (ended == blockDim.x) return;
        if (!any || ended + waiting != blockDim.x) {
            fprintf(stderr, "threads of a block wait at different places\n");
            abort();
        }
        for (int i = 0; i < blockDim.x; i++)
            if (states[i] == AT_BLOCK) states[i] = READY;
    }
}

struct Kernel { const char *name; void (*call)(void **); Kernel *next; };
static Kernel *kernels;
template <typename T> struct Caller;
template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };
template <typename... A, int... I>
static void spread(void (*f)(A...), void **arguments, Indices<I...>) {
    f(*static_cast<A *>(arguments[I])...);
}
template <typename... A> static void call(void (*f)(A...), void **arguments) {
    spread(f, arguments, typename Count<sizeof...(A)>::type());
}
struct Register {
    Register(Kernel *kernel) { kernel->next = kernels; kernels = kernel; }
};
} // namespace host

#define ENTRY(kernel)                                                                            \
    static void call_##kernel(void **arguments) { host::call(kernel, arguments); }               \
    static host::Kernel kernel_##kernel = {#kernel, call_##kernel, nullptr};                     \
    static host::Register register_##kernel(&kernel_##kernel);

extern "C" int launch(const char *name, int x, int y, int z, int threads, int shared,
                      void **arguments) {
    host::Kernel *kernel = host::kernels;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    if (!kernel || threads % host::WARP || threads > host::THREADS ||
        shared > int(sizeof host::arena))
        return 1;
    host::body = kernel->call;
    host::given = arguments;
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) host::run_block(shared);
    return 0;
}

static void __syncthreads() { host::hand_over(host::AT_BLOCK); }
static float __shfl_xor_sync(unsigned, float x, int mask) {
    int me = host::current;
    host::shown[me].words[0] = __float_as_uint(x);
    host::hand_over(host::AT_WARP);
    uint32_t other = host::shown[me ^ mask].words[0];
    host::hand_over(host::AT_WARP);
    return __uint_as_float(other);
}

#ifdef BF16
struct real;
static void load_matrices(uint32_t to[4], const real *row, bool across) {
    int me = host::current, first = me / 32 * 32, lane = me % 32;
    host::shown[me].address = row;
    host::hand_over(host::AT_WARP);
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
            int major = lane / 4, minor = lane % 4 * 2 + i;
            int from = across ? minor : major, column = across ? major : minor;
            const void *address = host::shown[first + matrix * 8 + from].address;
            pair[i] = static_cast<const uint16_t *>(address)[column];
        }
        to[matrix] = pair[0] | uint32_t(pair[1]) << 16;
    }
    host::hand_over(host::AT_WARP);
}
// The layouts of operands are those of PTX's mma.m16n8k16.
static void multiply(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    int me = host::current, first = me / 32 * 32, lane = me % 32;
    memcpy(host::shown[me].words, a, 16);
    memcpy(host::shown[me].words + 4, b, 8);
    host::hand_over(host::AT_WARP);
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            int left = row % 8 * 4 + k % 8 / 2, right = column * 4 + k % 8 / 2;
            uint32_t x = host::shown[first + left].words[row / 8 + k / 8 * 2];
            uint32_t y = host::shown[first + right].words[4 + k / 8];
            c[i] += __uint_as_float(k % 2 ? x & 0xffff0000u : x << 16) *
                    __uint_as_float(k % 2 ? y & 0xffff0000u : y << 16);
        }
    }
    host::hand_over(host::AT_WARP);
}
#endif
