// What the kernels on matrix tiles share: see amx.c.
#pragma once
#include "CKernels.h"

enum { SIDE = 32, STEP = 32, TILE = 1024, BLOCK = 4 * TILE };

#if defined(__x86_64__) && defined(__linux__) && !defined(CK_ONE_VERSION)
#define CK_HAS_AMX 1
#include "transpose.h"
#include <immintrin.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"), min_vector_width(512)))
#define AMX_INLINE AMX static inline __attribute__((always_inline))

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_configuration;

// Eight tiles of sixteen rows of 64 bytes; to be followed by _tile_release().
AMX_INLINE void start_tiles(void) {
    tile_configuration configuration = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        configuration.bytes[i] = 64;
        configuration.rows[i] = 16;
    }
    _tile_loadconfig(&configuration);
}

// The greatest magnitude of the first halves met so far, as bits: from 0x7f80 on it is no finite number.
typedef struct {
    __m512i most;
} watch;

AMX_INLINE int refused(const watch *w) {
    return _mm512_cmpge_epu16_mask(w->most, _mm512_set1_epi16(0x7f80)) != 0;
}

// Thirty-two values as thirty-two first and thirty-two second halves, those of x in the lower lanes.
AMX_INLINE void split(__m512 x, __m512 y, __m512i *first, __m512i *second, watch *w) {
    const __m512i h = (__m512i)_mm512_cvtne2ps_pbh(y, x);
    w->most = _mm512_max_epu16(w->most, _mm512_and_si512(h, _mm512_set1_epi16(0x7fff)));
    const __m512i hx = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(h)), 16);
    const __m512i hy = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(h, 1)), 16);
    *first = h;
    *second = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(y, _mm512_castsi512_ps(hy)), _mm512_sub_ps(x, _mm512_castsi512_ps(hx)));
}

AMX_INLINE __mmask16 lanes(long n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

// A tile of sixteen rows of sixteen pairs (or Float32), turned in its place.
AMX_INLINE void turn(char *tile) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_load_si512(tile + i * 64);
    turn_rows(r);
    for (int i = 0; i < 16; i++) _mm512_store_si512(tile + i * 64, r[i]);
}

// 2^x, relative error below 3e-7.
AMX_INLINE __m512 power_of_two(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x less its integer part
    __m512 y = _mm512_fmadd_ps(f, _mm512_set1_ps(1.87757670002e-3f), _mm512_set1_ps(8.98934002358e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.58263181162e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.240153617021f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.693153073203f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.999999925064f));
    return _mm512_scalef_ps(y, x);
}

// Packs the panels first..<last of a matrix that has `wide` rows (or columns), and the values from..<to of k; `panelBytes` from panel to panel.
// `along`: k runs along the rows of x, else down. `pairsDown`: a row of the tiles is a pair of k (a right operand), else a row of the panel.
void ck_amx_pack_panels(
    const float *x, long stride, int along, int pairsDown, long wide, long first, long last, long from, long to, float alpha, char *packed,
    size_t panelBytes, watch *w);

// What is fetched towards the second cache while a tile is summed, since it lies in no order that the CPU would foresee: some lines a step of the
// next panel of b, the next sums, and a row of the values that will be packed next.
typedef struct {
    const char *right, *left;
    long rightLines, leftLines;
    const float *sums;
    long stride;
} upcoming;

// 16 * rows x 16 * columns of c: rows and columns, 1 or 2, are constants where this is inlined. `start` says where the sums begin: nowhere (null),
// in c itself, or in one row of thirty-two (stride 0).
AMX_INLINE void tiles(
    const int rows, const int columns, const char *a, const char *b, long steps, const float *start, long startStride, float *c, long ldc,
    upcoming next) {
    if (start) {
        _tile_loadd(0, start, startStride * 4);
        if (columns > 1) _tile_loadd(1, start + 16, startStride * 4);
        if (rows > 1) _tile_loadd(2, start + 16 * startStride, startStride * 4);
        if (rows > 1 && columns > 1) _tile_loadd(3, start + 16 * startStride + 16, startStride * 4);
    } else {
        _tile_zero(0);
        if (columns > 1) _tile_zero(1);
        if (rows > 1) _tile_zero(2);
        if (rows > 1 && columns > 1) _tile_zero(3);
    }
#define PRODUCTS                                                                                                                              \
    _tile_dpbf16ps(0, 4, 6);                                                                                                                  \
    if (columns > 1) _tile_dpbf16ps(1, 4, 7);                                                                                                 \
    if (rows > 1) _tile_dpbf16ps(2, 5, 6);                                                                                                    \
    if (rows > 1 && columns > 1) _tile_dpbf16ps(3, 5, 7);
#define LOAD_A(from)                                                                                                                          \
    _tile_loadd(4, (from), 64);                                                                                                               \
    if (rows > 1) _tile_loadd(5, (from) + TILE, 64);
#define LOAD_B(from)                                                                                                                          \
    _tile_loadd(6, (from), 64);                                                                                                               \
    if (columns > 1) _tile_loadd(7, (from) + TILE, 64);
    const long rowsAtOnce = (SIDE + steps - 1) / steps;
    for (long s = 0; s < steps; s++, a += BLOCK, b += BLOCK) {
        LOAD_A(a)
        LOAD_B(b + 2 * TILE)
        for (long line = 0; line < next.rightLines; line++, next.right += 64) _mm_prefetch(next.right, _MM_HINT_T1);
        for (long line = 0; line < next.leftLines; line++, next.left += 64) _mm_prefetch(next.left, _MM_HINT_T1);
        for (long row = 0; row < rowsAtOnce; row++, next.sums += next.stride) {
            __builtin_prefetch(next.sums, 1, 2);
            __builtin_prefetch(next.sums + 16, 1, 2);
        }
        PRODUCTS
        LOAD_B(b)
        PRODUCTS
        LOAD_A(a + 2 * TILE)
        PRODUCTS
    }
    _tile_stored(0, c, ldc * 4);
    if (columns > 1) _tile_stored(1, c + 16, ldc * 4);
    if (rows > 1) _tile_stored(2, c + 16 * ldc, ldc * 4);
    if (rows > 1 && columns > 1) _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

#endif
