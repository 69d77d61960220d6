// Products of a matrix with weights that were packed first, for AVX-512: a tile of twelve rows and thirty-two columns stays in registers while
// it is summed over k, and bias and activation are applied while it is in the first cache. For the sizes of a small model this is well ahead
// of a general sgemm, which packs both operands at every call and leaves the bias to another pass. Other CPUs use OpenBLAS alone.
#include "CKernels.h"
#include <stdint.h>

enum { PANEL = 32, ROWS = 12, CHUNK = 512, GROUP = 1 << 18 };

long ck_packed_count(long k, long n) { return (n + PANEL - 1) / PANEL * PANEL * k; }

#if defined(__x86_64__) && !defined(CK_ONE_VERSION)
#include "transpose.h"
#include <immintrin.h>

int ck_packs(void) {
    static int known = -1;
    if (known < 0) {
        __builtin_cpu_init();
        known = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl");
    }
    return known;
}

// Sixteen rows of sixteen values, turned: rows of `b` (stride ldb) become columns of `packed` (stride PANEL). Rows behind `rows` are zero.
CK_AVX512 static inline void turn16(const float *b, long ldb, long rows, __mmask16 columns, float *packed, long count) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_castps_si512(_mm512_maskz_loadu_ps(columns, b + i * ldb)) : _mm512_setzero_si512();
    turn_rows(r);
    for (int i = 0; i < 16; i++)
        if (i < count) _mm512_storeu_si512(packed + i * PANEL, r[i]);
}

CK_AVX512 void ck_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, float *packed) {
    for (long p = first; p < last; p++) {
        const long start = p * PANEL, width = n - start < PANEL ? n - start : PANEL;
        float *panel = packed + p * PANEL * k;
        if (transposed) {
            for (long i = 0; i < k; i += 16) {
                const long count = k - i < 16 ? k - i : 16;
                const __mmask16 mask = (__mmask16)(count == 16 ? 0xffff : (1u << count) - 1);
                for (long half = 0; half < PANEL; half += 16) {
                    const long rows = width - half < 0 ? 0 : width - half > 16 ? 16 : width - half;
                    turn16(b + (start + half) * ldb + i, ldb, rows, mask, panel + i * PANEL + half, count);
                }
            }
        } else {
            const __mmask16 low = (__mmask16)(width >= 16 ? 0xffff : (1u << width) - 1);
            const __mmask16 high = (__mmask16)(width >= 32 ? 0xffff : width > 16 ? (1u << (width - 16)) - 1 : 0);
            for (long i = 0; i < k; i++) {
                _mm512_storeu_ps(panel + i * PANEL, _mm512_maskz_loadu_ps(low, b + i * ldb + start));
                _mm512_storeu_ps(panel + i * PANEL + 16, _mm512_maskz_loadu_ps(high, b + i * ldb + start + 16));
            }
        }
    }
}

// One tile: `rows` is a constant after inlining, so the sums live in registers.
CK_AVX512_INLINE void tile(
    const int rows, const float *a, long rowStride, long columnStride, const float *panel, long step, long k, float *c, long ldc,
    __mmask16 low, __mmask16 high, int accumulate, const float *bias) {
    __m512 left[ROWS], right[ROWS];
    __m512 biasLeft = _mm512_setzero_ps(), biasRight = _mm512_setzero_ps();
    if (bias) {
        biasLeft = _mm512_maskz_loadu_ps(low, bias);
        biasRight = _mm512_maskz_loadu_ps(high, bias + 16);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) {
        left[i] = biasLeft;
        right[i] = biasRight;
    }
    if (columnStride == 1) {
        // Four addresses, and from each the next two rows by an index: twelve pointers would not fit the registers.
        const float *quarter[4];
#pragma clang loop unroll(full)
        for (int q = 0; q < (rows + 2) / 3; q++) quarter[q] = a + 3 * q * rowStride;
#pragma clang loop vectorize(disable) unroll(disable)
        for (long j = 0; j < k; j++) {
            const __m512 b0 = _mm512_loadu_ps(panel), b1 = _mm512_loadu_ps(panel + 16);
            panel += step;
#pragma clang loop unroll(full)
            for (int i = 0; i < rows; i++) {
                const __m512 x = _mm512_set1_ps(quarter[i / 3][i % 3 * rowStride]);
                left[i] = _mm512_fmadd_ps(x, b0, left[i]);
                right[i] = _mm512_fmadd_ps(x, b1, right[i]);
            }
#pragma clang loop unroll(full)
            for (int q = 0; q < (rows + 2) / 3; q++) quarter[q]++;
        }
    } else {
#pragma clang loop unroll_count(2)
        for (long j = 0; j < k; j++) {
            const __m512 b0 = _mm512_loadu_ps(panel + j * step), b1 = _mm512_loadu_ps(panel + j * step + 16);
            const float *column = a + j * columnStride;
#pragma clang loop unroll(full)
            for (int i = 0; i < rows; i++) {
                const __m512 x = _mm512_set1_ps(column[i * rowStride]);
                left[i] = _mm512_fmadd_ps(x, b0, left[i]);
                right[i] = _mm512_fmadd_ps(x, b1, right[i]);
            }
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++) {
        float *y = c + i * ldc;
        if (accumulate) {
            left[i] = _mm512_add_ps(left[i], _mm512_maskz_loadu_ps(low, y));
            right[i] = _mm512_add_ps(right[i], _mm512_maskz_loadu_ps(high, y + 16));
        }
        _mm512_mask_storeu_ps(y, low, left[i]);
        _mm512_mask_storeu_ps(y + 16, high, right[i]);
    }
}

// What is constant in most calls the compiler should know: packed panels, and a row stride of one in a transposed operand.
#define TILE(N)                                                                                                                              \
    CK_AVX512 static __attribute__((noinline)) void tile##N(                                                                                 \
        const float *a, long rowStride, long columnStride, const float *panel, long step, long k, float *c, long ldc, __mmask16 low,          \
        __mmask16 high, int accumulate, const float *bias) {                                                                                 \
        if (columnStride == 1 && step == PANEL) tile(N, a, rowStride, 1, panel, PANEL, k, c, ldc, low, high, accumulate, bias);              \
        else if (columnStride == 1) tile(N, a, rowStride, 1, panel, step, k, c, ldc, low, high, accumulate, bias);                           \
        else tile(N, a, 1, columnStride, panel, step, k, c, ldc, low, high, accumulate, bias);                                               \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
typedef void (*tile_function)(
    const float *, long, long, const float *, long, long, float *, long, __mmask16, __mmask16, int, const float *);
static const tile_function tiles[ROWS + 1] = {0, tile1, tile2, tile3, tile4, tile5, tile6, tile7, tile8, tile9, tile10, tile11, tile12};

CK_AVX512 void ck_multiply_packed(
    const float *a, long stride, int transposed, const float *b, long ldb, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated) {
    const long rowStride = transposed ? 1 : stride, columnStride = transposed ? stride : 1;
    // From panel to panel, and from a row of a panel to the next.
    const long panelStep = ldb ? PANEL : PANEL * k, step = ldb ? ldb : PANEL;
    if (k == 0) {
        for (long i = 0; i < m; i++)
            for (long j = 0; j < n; j++) c[i * ldc + j] = (accumulate ? c[i * ldc + j] : 0) + (bias ? bias[j] : 0);
    }
    const long panels = (n + PANEL - 1) / PANEL;
    for (long start = 0; start < k; start += CHUNK) {
        const long depth = k - start < CHUNK ? k - start : CHUNK;
        const int adds = accumulate || start > 0, last = start + depth == k;
        // As many panels at a time as half of the second cache holds.
        const long group = GROUP / (depth * PANEL) > 0 ? GROUP / (depth * PANEL) : 1;
        for (long from = 0; from < panels; from += group) {
            const long to = from + group < panels ? from + group : panels;
            for (long i = 0; i < m;) {
                // The last rows are shared out evenly: a tile of one row would wait for its own sums.
                const long left = m - i, rows = left >= 2 * ROWS || left == ROWS ? ROWS : left > ROWS ? (left + 1) / 2 : left;
                for (long p = from; p < to; p++) {
                    const long width = n - p * PANEL < PANEL ? n - p * PANEL : PANEL;
                    const __mmask16 low = (__mmask16)(width >= 16 ? 0xffff : (1u << width) - 1);
                    const __mmask16 high = (__mmask16)(width >= 32 ? 0xffff : width > 16 ? (1u << (width - 16)) - 1 : 0);
                    tiles[rows](
                        a + i * rowStride + start * columnStride, rowStride, columnStride, b + p * panelStep + start * step,
                        step, depth, c + i * ldc + p * PANEL, ldc, low, high, adds, start == 0 && bias ? bias + p * PANEL : 0);
                }
                if (last && activated) {
                    const long begin = from * PANEL, width = (to * PANEL < n ? to * PANEL : n) - begin;
                    if (ldc == width) ck_activate(activation, c + i * ldc, activated + i * ldc, rows * width);
                    else
                        for (long r = i; r < i + rows; r++)
                            ck_activate(activation, c + r * ldc + begin, activated + r * ldc + begin, width);
                }
                i += rows;
            }
        }
    }
}

#else

int ck_packs(void) { return 0; }

void ck_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, float *packed) {
    for (long p = first; p < last; p++)
        for (long i = 0; i < k; i++)
            for (long j = 0; j < PANEL; j++) {
                const long column = p * PANEL + j;
                packed[(p * k + i) * PANEL + j] = column >= n ? 0 : transposed ? b[column * ldb + i] : b[i * ldb + column];
            }
}

void ck_multiply_packed(
    const float *a, long stride, int transposed, const float *b, long ldb, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated) {
    for (long i = 0; i < m; i++) {
        for (long j = 0; j < n; j++) {
            float sum = (accumulate ? c[i * ldc + j] : 0) + (bias ? bias[j] : 0);
            const float *column = ldb ? b + j : b + j / PANEL * PANEL * k + j % PANEL;
            for (long l = 0; l < k; l++) sum += a[transposed ? l * stride + i : i * stride + l] * column[l * (ldb ? ldb : PANEL)];
            c[i * ldc + j] = sum;
        }
        if (activated) ck_activate(activation, c + i * ldc, activated + i * ldc, n);
    }
}

#endif
