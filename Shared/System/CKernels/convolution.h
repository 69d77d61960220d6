// What the kernels of convolutions share: blocks of inputs and panels of weights.
#pragma once
#include "CKernels.h"
#include "vector.h"

enum {
    PANEL = 64,                    // outputs of a panel of weights, in which the outputs of one input stand together
    DEPTH = CK_CONVOLUTION_DEPTH,  // inputs of a block: its panel (12 KiB) stays in the first cache
};

static inline long ck_rounded(long n, long to) { return (n + to - 1) / to * to; }

/// sums[row][output] (+)= v[row][0..<depth] u[0..<depth][output]; rows of v are DEPTH apart, those of sums `stride`, and u is panels of
/// [DEPTH][PANEL]. Sums are written in whole vectors.
void ck_block_products(
    const float *v, const float *u, long depth, float *sums, long stride, long rows, long outputs, int adds);

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef float quads __attribute__((vector_size(32), aligned(4), may_alias));

// Four neighbouring taps of sixteen rows of weights, `step` apart, a vector a tap: 4x4 blocks turned in every quarter of a register.
#define TURN(rows, step, tap, g0, g1, g2, g3)                                                                                                      \
    do {                                                                                                                                     \
        vf r_[4];                                                                                                                            \
        for (int i_ = 0; i_ < 4; i_++) {                                                                                                     \
            const quad a_ = *(const quad *)((rows) + i_ * (step) + (tap)), b_ = *(const quad *)((rows) + (i_ + 4) * (step) + (tap));                               \
            const quad c_ = *(const quad *)((rows) + (i_ + 8) * (step) + (tap)), d_ = *(const quad *)((rows) + (i_ + 12) * (step) + (tap));                          \
            const quads ab_ = __builtin_shufflevector(a_, b_, 0, 1, 2, 3, 4, 5, 6, 7);                                                       \
            const quads cd_ = __builtin_shufflevector(c_, d_, 0, 1, 2, 3, 4, 5, 6, 7);                                                       \
            r_[i_] = __builtin_shufflevector(ab_, cd_, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                                \
        }                                                                                                                                    \
        const vf low01_ = LOW(r_[0], r_[1]), high01_ = HIGH(r_[0], r_[1]), low23_ = LOW(r_[2], r_[3]), high23_ = HIGH(r_[2], r_[3]);         \
        (g0) = LOW_PAIRS(low01_, low23_);                                                                                                    \
        (g1) = HIGH_PAIRS(low01_, low23_);                                                                                                   \
        (g2) = LOW_PAIRS(high01_, high23_);                                                                                                  \
        (g3) = HIGH_PAIRS(high01_, high23_);                                                                                                 \
    } while (0)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_PAIRS(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_PAIRS(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
