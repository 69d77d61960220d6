// The small matrix product that the kernels are built of. Sixteen values of a row of B stand in a register, one value of A is broadcast, and a
// block of the result stays in registers over the whole depth. Nothing of A is packed: of its two steps one is usually 1 and the other a row
// stride, so it may be read as it stands or transposed. On AVX-512 (Emerald Rapids) 8 rows x 3 registers run at 97 % of the multipliers' peak.
#pragma once
#include "vector.h"

// target_clones cannot choose constants by the CPU, so a kernel whose blocking depends on the number of registers is written once as a
// CK_INLINE function of constants, and instantiated under each of these; ck_vector_level() says which to call.
#if defined(__x86_64__) && !defined(CK_ONE_VERSION)
#define CK_LEVEL_4 __attribute__((target("arch=x86-64-v4"), min_vector_width(512)))
#define CK_LEVEL_3 __attribute__((target("arch=x86-64-v3")))
#define CK_HAS_LEVELS 1
CK_INLINE int ck_vector_level(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("x86-64-v4") ? 4 : __builtin_cpu_supports("x86-64-v3") ? 3 : 1;
}
#else
CK_INLINE int ck_vector_level(void) { return 1; }
#endif

// The greater of two, lane by lane, in one instruction; b where either is not a number. (CK_MAX spends three on numbers alone.)
typedef float ck_lanes __attribute__((ext_vector_type(16), aligned(4), may_alias));
#define CK_GREATER(a, b) ((vf)(((ck_lanes)(a) > (ck_lanes)(b)) ? (ck_lanes)(a) : (ck_lanes)(b)))

/// C[r, v] = plus[r, v] + factors[r] * sum over k < depth of A[r * rowStep + k * depthStep] * B[k * stride + v]
/// for r < rows, v < 16 * vectors.
///
/// `rows` (at most 8) and `vectors` (at most 4) must be constants where this is inlined, with rows * vectors + vectors + 1 registers of sixteen
/// floats to hold them: 8 x 3 or 6 x 4 on AVX-512, 4 x 1 on AVX2. `factors` may be null (one). `plus` may be null (zero), C itself (to add to
/// it), or one row for all (plusStep 0); it is added last, so that a sum over several calls has the rounding errors of short sums. Where `top`
/// is not null, top[v] = max(top[v], C[r, v] over r).
CK_INLINE void ck_micro(
    const int rows, const int vectors, long depth, const float *a, long rowStep, long depthStep, const float *b, long stride,
    const float *factors, const float *plus, long plusStep, float *c, long cStep, float *top) {
    vf sum[8][4];
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) sum[r][v] = CK_SPLAT(0.0f);
    for (long k = 0; k < depth; k++) {
        vf right[4];
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) right[v] = CK_LOAD(b + v * CK_LANES);
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            const float left = a[r * rowStep];
#pragma clang loop unroll(full)
            for (int v = 0; v < vectors; v++) sum[r][v] += CK_SPLAT(left) * right[v];
        }
        a += depthStep;
        b += stride;
    }
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) {
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            if (factors) sum[r][v] *= CK_SPLAT(factors[r]);
            if (plus) sum[r][v] += CK_LOAD(plus + r * plusStep + v * CK_LANES);
        }
        if (top) {
            vf most = CK_LOAD(top + v * CK_LANES);
#pragma clang loop unroll(full)
            for (int r = 0; r < rows; r++) most = CK_GREATER(sum[r][v], most);
            CK_STORE(top + v * CK_LANES, most);
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) CK_STORE(c + r * cStep + v * CK_LANES, sum[r][v]);
    }
}

/// The same for a block that need not fit the registers: in pieces of pieceRows x pieceVectors, which have to.
CK_INLINE void ck_block(
    const int pieceRows, const int pieceVectors, const int rows, const int vectors, long depth, const float *a, long rowStep,
    long depthStep, const float *b, long stride, const float *factors, const float *plus, long plusStep, float *c, long cStep,
    float *top) {
    const int height = pieceRows < rows ? pieceRows : rows, breadth = pieceVectors < vectors ? pieceVectors : vectors;
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v += breadth)
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r += height)
            ck_micro(
                height, breadth, depth, a + r * rowStep, rowStep, depthStep, b + v * CK_LANES, stride,
                factors ? factors + r : (const float *)0, plus ? plus + r * plusStep + v * CK_LANES : (const float *)0, plusStep,
                c + r * cStep + v * CK_LANES, cStep, top ? top + v * CK_LANES : (float *)0);
}

/// What a kernel is instantiated with: the level of the CPU, and the block of results that its registers hold.
#define CK_BLOCKS_4 4, 8, 3
#define CK_BLOCKS_3 3, 4, 1
#if defined(__aarch64__)
#define CK_BLOCKS_1 1, 4, 1
#else
#define CK_BLOCKS_1 1, 2, 1
#endif
