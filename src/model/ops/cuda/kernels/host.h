// Runs the kernels on a processor, to test them without a GPU: block after block, the
// threads of a block as fibers that hand over where threads of a GPU wait for each other.
// A warp whose lanes wait at different places, which hangs a GPU, ends the program.
// The compiler asks before each access whether it may be made (`-fsanitize=kernel-address`,
// which needs no library): what is in none of the kernel's arrays, which ends a GPU's
// context, ends the launch.

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

// Of functions that are no kernel's, of which the compiler does not ask.
#define UNASKED __attribute__((no_sanitize("kernel-address")))

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
// Where the running kernel may read and write, beside what is this library's.
struct Span { uintptr_t first, end; };
static const Span *spans;
static int span_count, shared_bytes;
static Span stacks[THREADS];
// What lies behind each array of this library, where nobody may read or write.
const int GAPS = 256;
static Span gaps[GAPS];
static int gap_count;
// What the last accesses were in: an array, and what lies between two gaps.
static Span last, between;
static bool within;
static char fault[200];

// Jumps, as switching whole contexts asks the system for its signal masks each time.
UNASKED static void hand_over(State state) {
    states[current] = state;
    within = false;
    if (!_setjmp(places[current])) _longjmp(scheduler, 1);
}
UNASKED static void begin() {
    for (;;) {
        body(given);
        hand_over(ENDED);
    }
}
UNASKED static void resume(int i) {
    current = i;
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler)) return;
    within = true;
    if (i < made) _longjmp(places[i], 1);
    made++;
    if (!stacks[i].first) {
        stacks[i].first = uintptr_t(malloc(STACK));
        stacks[i].end = stacks[i].first + STACK;
    }
    getcontext(&fibers[i]);
    fibers[i].uc_stack = {reinterpret_cast<void *>(stacks[i].first), 0, size_t(STACK)};
    makecontext(&fibers[i], begin, 0);
    setcontext(&fibers[i]);
}
UNASKED static bool run_warp(int first) {
    bool any = false;
    for (int i = first; i < first + WARP; i++) {
        if (states[i] != READY) continue;
        any = true;
        resume(i);
        if (*fault) return false;
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
UNASKED static void run_block(int shared) {
    for (int i = 0; i < blockDim.x; i++) states[i] = READY;
    // What a block did not write is not there: not what another left.
    memset(arena, 0xff, shared);
    for (;;) {
        bool any = false;
        for (int first = 0; first < blockDim.x; first += WARP)
            while (run_warp(first)) any = true;
        if (*fault) return;
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

// The ends of this library, as the linker knows them.
extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

UNASKED static bool inside(const Span &span, uintptr_t at, size_t bytes) {
    return span.first <= at && at + bytes <= span.end;
}
UNASKED static void touch(uintptr_t at, size_t bytes, const char *what) {
    if (inside(stacks[current], at, bytes) || inside(last, at, bytes) ||
        inside(between, at, bytes) || !within)
        return;
    uintptr_t shared = uintptr_t(arena);
    if (inside({shared, shared + shared_bytes}, at, bytes)) return;
    for (int i = 0; i < span_count; i++)
        if (inside(spans[i], at, bytes)) {
            last = spans[i];
            return;
        }
    Span free = {uintptr_t(__ehdr_start), uintptr_t(_end)};
    for (int i = 0; i < gap_count; i++) {
        if (gaps[i].end <= at && free.first < gaps[i].end) free.first = gaps[i].end;
        if (at < gaps[i].end && gaps[i].first < free.end) free.end = gaps[i].first;
    }
    // The arena, of which a launch has a part, is no free place.
    uintptr_t behind = shared + sizeof arena;
    if (at < shared && shared < free.end) free.end = shared;
    if (behind <= at && free.first < behind) free.first = behind;
    bool in_arena = shared <= at && at < behind;
    if (inside(free, at, bytes) && !in_arena) {
        between = free;
        return;
    }
    const Span *near = nullptr;
    for (int i = 0; i < span_count; i++)
        if (spans[i].first <= at && (!near || near->first < spans[i].first)) near = &spans[i];
    snprintf(fault, sizeof fault,
             "block %d %d %d, thread %d %s %zu bytes where nothing is, %ld after an array",
             blockIdx.x, blockIdx.y, blockIdx.z, current, what, bytes,
             near ? long(at - near->end) : long(at));
    within = false;
    _longjmp(scheduler, 1);
}
struct Kernel { const char *name; void (*call)(void **); Kernel *next; };
static Kernel *kernels;
template <typename T> struct Caller;
template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };
template <typename... A, int... I>
UNASKED static void spread(void (*f)(A...), void **arguments, Indices<I...>) {
    f(*static_cast<A *>(arguments[I])...);
}
template <typename... A> static void call(void (*f)(A...), void **arguments) {
    spread(f, arguments, typename Count<sizeof...(A)>::type());
}
struct Register {
    Register(Kernel *kernel) { kernel->next = kernels; kernels = kernel; }
};
} // namespace host

#define TOUCHES(bytes)                                                                           \
    void __asan_load##bytes##_noabort(uintptr_t at) { host::touch(at, bytes, "reads"); }         \
    void __asan_store##bytes##_noabort(uintptr_t at) { host::touch(at, bytes, "writes"); }
extern "C" {
TOUCHES(1) TOUCHES(2) TOUCHES(4) TOUCHES(8) TOUCHES(16)
void __asan_loadN_noabort(uintptr_t at, size_t bytes) { host::touch(at, bytes, "reads"); }
void __asan_storeN_noabort(uintptr_t at, size_t bytes) { host::touch(at, bytes, "writes"); }
void __asan_handle_no_return() {}
void __asan_before_dynamic_init(const void *) {}
void __asan_after_dynamic_init() {}
// What the compiler says of each array of this library.
struct Global { uintptr_t at; size_t bytes, bytes_with_gap; const void *rest[5]; };
void __asan_register_globals(const Global *of, size_t count) {
    for (size_t i = 0; i < count && host::gap_count < host::GAPS; i++)
        host::gaps[host::gap_count++] = {of[i].at + of[i].bytes, of[i].at + of[i].bytes_with_gap};
}
void __asan_unregister_globals(const Global *, size_t) {}
}

#define ENTRY(kernel)                                                                            \
    static void call_##kernel(void **arguments) { host::call(kernel, arguments); }               \
    static host::Kernel kernel_##kernel = {#kernel, call_##kernel, nullptr};                     \
    static host::Register register_##kernel(&kernel_##kernel);

// What went wrong, or nothing.
extern "C" const char *launch(const char *name, int x, int y, int z, int threads, int shared,
                              void **arguments, const host::Span *spans, int span_count) {
    host::Kernel *kernel = host::kernels;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    if (!kernel) return "there is no such kernel";
    if (threads % host::WARP || threads > host::THREADS || shared > int(sizeof host::arena))
        return "a block cannot be so large";
    host::body = kernel->call;
    host::given = arguments;
    host::spans = spans;
    host::span_count = span_count;
    host::shared_bytes = shared;
    host::last = {0, 0};
    *host::fault = 0;
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) {
                host::run_block(shared);
                if (!*host::fault) continue;
                // Its threads are somewhere: the next launch begins with new ones.
                host::made = 0;
                return host::fault;
            }
    return nullptr;
}

static void __syncthreads() { host::hand_over(host::AT_BLOCK); }
UNASKED static float __shfl_xor_sync(unsigned, float x, int mask) {
    int me = host::current;
    host::shown[me].words[0] = __float_as_uint(x);
    host::hand_over(host::AT_WARP);
    uint32_t other = host::shown[me ^ mask].words[0];
    host::hand_over(host::AT_WARP);
    return __uint_as_float(other);
}

#ifdef BF16
struct real;
UNASKED static void load_matrices(uint32_t to[4], const real *row, bool across) {
    int me = host::current, first = me / 32 * 32, lane = me % 32;
    host::touch(uintptr_t(row), 16, "reads");
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
UNASKED static void multiply(float c[4], const uint32_t a[4], const uint32_t b[2]) {
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
