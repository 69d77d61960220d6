// Pieces that attention's forward and backward share. A tile of scores stands transposed, [keys, queries], sixteen queries in a register: then
// neither product pads a head's width to whole registers, and maxima and sums over keys need no folding.
#pragma once
#include "CKernels.h"
#include "micro.h"

enum { CK_KEY_ROWS = 8, CK_GROUP = 3 };
#define CK_LOG2_E 1.44269504088896341f

CK_INLINE long ck_round_up(long n, long step) { return (n + step - 1) / step * step; }

/// Scores are kept in bits, log2(e) * scale being folded into q when it is packed. Where no instruction splits a number into its
/// parts, the unit is 2^-23 bits: converted to an integer, such a score holds its exponent as a Float32 does.
CK_INLINE float ck_score_unit(const int level) { return level == 4 ? 1.0f : 8388608.0f; }

/// Exponentials of a block of scores in place, rows `stride` apart: 2^score, relative error below 3e-7, for scores below 127 bits; below -100
/// they stay at 2^-100, so that no product of one is so small that the CPU takes hundreds of cycles for it. sums[v] = their sum over the rows.
typedef void (*ck_exponentials)(float *scores, long rows, int vectors, long stride, float *sums);
/// Scores relative to the logs of their sums, and slopes: scores <- p = 2^score, slopes <- p slope.
typedef void (*ck_slopes)(float *scores, float *slopes, long rows, int vectors, long stride);

// With x = n + f and 0 <= f < 1, 2^f is a minimax polynomial of degree five.
#define CK_EXP2_LOW(level) (-100 * ck_score_unit(level))
#define CK_EXP2_HIGH(level) (120 * ck_score_unit(level))
#if defined(CK_HAS_LEVELS)
#include <immintrin.h>
#define CK_EXP2_4(into, x)                                                                                                                   \
    do {                                                                                                                                     \
        const vf x_ = CK_MAX(x, CK_SPLAT(CK_EXP2_LOW(4)));                                                                                   \
        const vf f_ = (vf)_mm512_reduce_ps((__m512)x_, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);                                           \
        vf p_ = f_ * 1.87757670002e-3f + 8.98934002358e-3f;                                                                                  \
        p_ = p_ * f_ + 5.58263181162e-2f;                                                                                                    \
        p_ = p_ * f_ + 0.240153617021f;                                                                                                      \
        p_ = p_ * f_ + 0.693153073203f;                                                                                                      \
        p_ = p_ * f_ + 0.999999925064f;                                                                                                      \
        (into) = (vf)_mm512_scalef_ps((__m512)p_, (__m512)x_);                                                                               \
    } while (0)
#endif
#define CK_EXP2_1(into, x)                                                                                                                   \
    do {                                                                                                                                     \
        /* m = 1 + f by its bits; the polynomial is that of 2^(m - 1) */                                                                     \
        const vi i_ = __builtin_convertvector(CK_MAX(x, CK_SPLAT(CK_EXP2_LOW(1))), vi);                                                      \
        const vf m_ = (vf)((i_ & 0x7fffff) | 0x3f800000);                                                                                    \
        vf p_ = m_ * 1.87757670002e-3f - 3.98543476518e-4f;                                                                                  \
        p_ = p_ * m_ + 3.86447250221e-2f;                                                                                                    \
        p_ = p_ * m_ + 0.107834935814f;                                                                                                      \
        p_ = p_ * m_ + 0.353755316915f;                                                                                                      \
        p_ = p_ * m_ + 0.498285914089f;                                                                                                      \
        (into) = (vf)((vi)p_ + (i_ & ~0x7fffff));                                                                                            \
    } while (0)

/// The body of a ck_exponentials (a macro, because a function of its own level cannot be inlined into one without).
#define CK_EXPONENTIALS(EXP2)                                                                                                                \
    for (int v = 0; v < vectors; v++) {                                                                                                      \
        vf sum = CK_SPLAT(0.0f);                                                                                                             \
        float *p = scores + v * CK_LANES;                                                                                                    \
        _Pragma("clang loop unroll_count(4)") for (long k = 0; k < rows; k++, p += stride) {                                                 \
            vf e;                                                                                                                            \
            EXP2(e, CK_LOAD(p));                                                                                                             \
            sum += e;                                                                                                                        \
            CK_STORE(p, e);                                                                                                                  \
        }                                                                                                                                    \
        CK_STORE(sums + v * CK_LANES, sum);                                                                                                  \
    }
#define CK_SLOPES(EXP2, HIGH)                                                                                                                \
    for (long k = 0; k < rows; k++)                                                                                                          \
        for (int v = 0; v < vectors; v++) {                                                                                                  \
            float *const p = scores + k * stride + v * CK_LANES, *const d = slopes + k * stride + v * CK_LANES;                              \
            vf e;                                                                                                                            \
            EXP2(e, CK_MIN(CK_LOAD(p), CK_SPLAT(HIGH)));                                                                                     \
            CK_STORE(p, e);                                                                                                                  \
            CK_STORE(d, e *CK_LOAD(d));                                                                                                      \
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
