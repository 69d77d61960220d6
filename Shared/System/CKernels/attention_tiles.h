// Pieces that attention's forward and backward share. A tile of scores stands transposed, [keys, queries], sixteen queries in a register: then
// neither product pads a head's width to whole registers, and maxima and sums over keys need no folding.
#pragma once
#include "CKernels.h"
#include "micro.h"

// Scores are kept in units of 2^-23 bits: log2(e) * scale * 2^23 is folded into q when it is packed, so that the integer part of a score
// is an exponent as a Float32 holds it, once converted to an integer.
#define CK_SCORE_UNIT 8388608.0f
#define CK_LOG2_E 1.44269504088896341f
enum { CK_KEY_ROWS = 8, CK_GROUP = 3 };

CK_INLINE long ck_round_up(long n, long step) { return (n + step - 1) / step * step; }

/// 2^(x / CK_SCORE_UNIT), relative error below 3e-7, for x under 127 units; below -126 it stays at 2^-126. The bits under the exponent are
/// taken as m in [1, 2), 2^(m-1) is a minimax polynomial, and the exponent is added back as an integer.
#define CK_EXP2_UNITS(into, argument)                                                                                                        \
    do {                                                                                                                                     \
        const vi i_ = __builtin_convertvector(CK_MAX((argument), CK_SPLAT(-126.0f * CK_SCORE_UNIT)), vi);                                    \
        const vf m_ = (vf)((i_ & 0x7fffff) | 0x3f800000);                                                                                    \
        vf p_ = m_ * 1.87757670002e-3f - 3.98543476518e-4f;                                                                                  \
        p_ = p_ * m_ + 3.86447250221e-2f;                                                                                                    \
        p_ = p_ * m_ + 0.107834935814f;                                                                                                      \
        p_ = p_ * m_ + 0.353755316915f;                                                                                                      \
        p_ = p_ * m_ + 0.498285914089f;                                                                                                      \
        (into) = (vf)((vi)p_ + (i_ & ~0x7fffff));                                                                                            \
    } while (0)

/// A block of up to 8 rows x 48 lanes in pieces that fit the registers.
CK_INLINE void ck_block(
    const int pieceRows, const int pieceVectors, const int rows, const int vectors, long depth, const float *a, long rowStep,
    long depthStep, const float *b, long stride, const float *plus, long plusStep, float *c, long cStep, float *top) {
    const int height = pieceRows < rows ? pieceRows : rows, breadth = pieceVectors < vectors ? pieceVectors : vectors;
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v += breadth)
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r += height)
            ck_micro(
                height, breadth, depth, a + r * rowStep, rowStep, depthStep, b + v * CK_LANES, stride,
                plus ? plus + r * plusStep + v * CK_LANES : (const float *)0, plusStep, c + r * cStep + v * CK_LANES, cStep,
                top ? top + v * CK_LANES : (float *)0);
}

/// How many of `left` registers of queries the next group takes: three, but two and two at the end rather than three and one.
CK_INLINE long ck_group(long left) { return left == 4 || left == 2 ? 2 : left >= CK_GROUP ? CK_GROUP : 1; }

typedef float ck_four __attribute__((vector_size(16), aligned(4), may_alias));
typedef float ck_eight __attribute__((vector_size(32), aligned(4), may_alias));
#define CK_FOUR(p) (*(const ck_four *)(p))
#define CK_JOIN(a, b, c, d)                                                                                                                  \
    __builtin_shufflevector(                                                                                                                 \
        __builtin_shufflevector(CK_FOUR(a), CK_FOUR(b), 0, 1, 2, 3, 4, 5, 6, 7),                                                             \
        __builtin_shufflevector(CK_FOUR(c), CK_FOUR(d), 0, 1, 2, 3, 4, 5, 6, 7), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define CK_LOW_PAIRS(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define CK_HIGH_PAIRS(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define CK_LOW_HALVES(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define CK_HIGH_HALVES(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
/// Transposes the 4 x 4 matrices that lie in the four quarters of four registers.
#define CK_TRANSPOSE_QUARTERS(x)                                                                                                             \
    do {                                                                                                                                     \
        const vf a_ = CK_LOW_PAIRS(x[0], x[1]), b_ = CK_LOW_PAIRS(x[2], x[3]);                                                               \
        const vf c_ = CK_HIGH_PAIRS(x[0], x[1]), d_ = CK_HIGH_PAIRS(x[2], x[3]);                                                             \
        x[0] = CK_LOW_HALVES(a_, b_), x[1] = CK_HIGH_HALVES(a_, b_), x[2] = CK_LOW_HALVES(c_, d_), x[3] = CK_HIGH_HALVES(c_, d_);            \
    } while (0)

/// y[c, r] = factor * x[r, c] for sixteen rows; behind the last of `rows` stands that one again.
CK_INLINE void ck_pack_transposed(const float *x, long stride, long rows, long columns, float factor, float *y, long yStride) {
    const float *row[CK_LANES];
#pragma clang loop unroll(full)
    for (int r = 0; r < CK_LANES; r++) row[r] = x + (r < rows ? r : rows - 1) * stride;
    long c = 0;
    for (; c + 4 <= columns; c += 4) {
        vf t[4];
#pragma clang loop unroll(full)
        for (int r = 0; r < 4; r++) t[r] = factor * CK_JOIN(row[r] + c, row[r + 4] + c, row[r + 8] + c, row[r + 12] + c);
        CK_TRANSPOSE_QUARTERS(t);
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) CK_STORE(y + (c + i) * yStride, t[i]);
    }
    for (; c < columns; c++)
        for (int r = 0; r < CK_LANES; r++) y[c * yStride + r] = factor * row[r][c];
}

/// y[r, c] = factors[r] * x[c, r] for up to sixteen rows.
CK_INLINE void ck_unpack_transposed(const float *x, long xStride, const float *factors, float *y, long stride, long rows, long columns) {
    const vf factor = CK_LOAD(factors);
    long c = 0;
    for (; c + 4 <= columns; c += 4) {
        vf t[4];
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) t[i] = factor * CK_LOAD(x + (c + i) * xStride);
        CK_TRANSPOSE_QUARTERS(t);
        if (rows >= CK_LANES) {
#pragma clang loop unroll(full)
            for (int r = 0; r < 4; r++) {
                float *at = y + r * stride + c;
                *(ck_four *)at = __builtin_shufflevector(t[r], t[r], 0, 1, 2, 3);
                *(ck_four *)(at + 4 * stride) = __builtin_shufflevector(t[r], t[r], 4, 5, 6, 7);
                *(ck_four *)(at + 8 * stride) = __builtin_shufflevector(t[r], t[r], 8, 9, 10, 11);
                *(ck_four *)(at + 12 * stride) = __builtin_shufflevector(t[r], t[r], 12, 13, 14, 15);
            }
        } else {
            for (long r = 0; r < rows; r++)
                for (int i = 0; i < 4; i++) y[r * stride + c + i] = t[r % 4][r / 4 * 4 + i];
        }
    }
    for (; c < columns; c++)
        for (long r = 0; r < rows && r < CK_LANES; r++) y[r * stride + c] = factors[r] * x[c * xStride + r];
}
