// Float32 products as three bfloat16 products on the CPU's matrix tiles. A tile is 16 rows of 64 bytes; eight of them stand in registers, and one
// instruction multiplies 16 x 32 by 32 x 16 bfloat16 numbers into 16 x 16 Float32 sums. Four tiles hold 32 x 32 sums, the other four take turns as
// both halves of both operands: eight loads for twelve products, so the tiles run at their peak from the second cache.
//
// Both operands are packed into panels of 32 rows (or columns). A panel is a run of 4 KiB steps of 32 values of k, each of them four tiles: the
// upper and the lower sixteen rows of the first halves, then of the second halves.
#define _GNU_SOURCE
#include "CKernels.h"

// A block of the left operand, packed at a time: ROWS x DEPTH (768 KiB); STEPS of a panel are multiplied while their sums stand in the tiles.
#ifndef CK_AMX_ROWS
#define CK_AMX_ROWS 256
#define CK_AMX_DEPTH 768
#define CK_AMX_STEPS 24
#endif
enum { SIDE = 32, STEP = 32, TILE = 1024, BLOCK = 4 * TILE, ROWS = CK_AMX_ROWS, DEPTH = CK_AMX_DEPTH, STEPS = CK_AMX_STEPS };

size_t ck_amx_packed_bytes(long k, long n) { return (size_t)((n + SIDE - 1) / SIDE) * (size_t)((k + STEP - 1) / STEP) * BLOCK; }

#if defined(__x86_64__) && defined(__linux__) && !defined(CK_ONE_VERSION)
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"), min_vector_width(512)))
#define AMX_INLINE AMX static inline __attribute__((always_inline))

static int find_amx(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return 0;  // the system saves extended registers
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, amx = 1u << 22 | 1u << 24;  // F, DQ, BW, VL; AMX-BF16, AMX-TILE
    if ((b & avx512) != avx512 || (d & amx) != amx) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return 0;  // AVX512-BF16
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const unsigned saved = 7u << 5 | 3u << 17 | 6u;  // AVX-512's, the tiles', SSE's and AVX's
    if ((low & saved) != saved) return 0;
    // A process has to ask before its first use of the tiles: ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA.
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

int ck_amx(void) {
    static int known = -1;
    int found = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (found < 0) {
        found = find_amx();
        __atomic_store_n(&known, found, __ATOMIC_RELEASE);
    }
    return found;
}

// ---- packing

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

// Sixteen rows of x (k along the row): row r of the tiles holds its `count` values, in pairs as they stand.
AMX_INLINE void pack_along(const float *x, long stride, long rows, long count, __m512 alpha, char *tile, watch *w) {
    const __mmask16 low = lanes(count), high = lanes(count - 16);
    for (long r = 0; r < 16; r++) {
        __m512i first = _mm512_setzero_si512(), second = first;
        if (r < rows) {
            const __m512 a = _mm512_maskz_loadu_ps(low, x + r * stride), b = _mm512_maskz_loadu_ps(high, x + r * stride + 16);
            split(_mm512_mul_ps(a, alpha), _mm512_mul_ps(b, alpha), &first, &second, w);
        }
        _mm512_store_si512(tile + r * 64, first);
        _mm512_store_si512(tile + 2 * TILE + r * 64, second);
    }
}

// Sixteen columns of x (k down the column): row r of the tiles holds the pairs of k = 2r, 2r + 1, column after column.
AMX_INLINE void pack_across(const float *x, long stride, long columns, long count, __m512 alpha, char *tile, watch *w) {
    const __mmask16 mask = lanes(columns);
    const __m512i pairs = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (long r = 0; r < 16; r++) {
        const __m512 a = _mm512_maskz_loadu_ps(2 * r < count ? mask : 0, x + 2 * r * stride);
        const __m512 b = _mm512_maskz_loadu_ps(2 * r + 1 < count ? mask : 0, x + (2 * r + 1) * stride);
        __m512i first, second;
        split(_mm512_mul_ps(a, alpha), _mm512_mul_ps(b, alpha), &first, &second, w);
        _mm512_store_si512(tile + r * 64, _mm512_permutexvar_epi16(pairs, first));
        _mm512_store_si512(tile + 2 * TILE + r * 64, _mm512_permutexvar_epi16(pairs, second));
    }
}

// A tile of sixteen rows of sixteen pairs, turned in its place.
AMX_INLINE void turn(char *tile) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_load_si512(tile + i * 64);
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            r[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            r[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
    for (int i = 0; i < 16; i++) _mm512_store_si512(tile + i * 64, r[i]);
}

// One step of one panel: `width` of its 32 rows (or columns) exist, and `count` values of k. `along`: k runs along the rows of x, else down.
// `pairsDown`: a row of the tiles is a pair of k (the right operand), else a row of the panel (the left one).
AMX static void pack_step(const float *x, long stride, int along, int pairsDown, long width, long count, float alpha, char *step, watch *w) {
    const __m512 factor = _mm512_set1_ps(alpha);
    for (long half = 0; half < 2; half++) {
        char *tile = step + half * TILE;
        const long rows = width - half * 16;
        if (along) pack_along(x + half * 16 * stride, stride, rows, count, factor, tile, w);
        else pack_across(x + half * 16, stride, rows, count, factor, tile, w);
        if (along == pairsDown) {
            turn(tile);
            turn(tile + 2 * TILE);
        }
    }
}

// The panels first..<last of a matrix that has `wide` rows (or columns), and the values from..<to of k; `panelBytes` from panel to panel.
AMX static void pack_panels(
    const float *x, long stride, int along, int pairsDown, long wide, long first, long last, long from, long to, float alpha, char *packed,
    size_t panelBytes, watch *w) {
    // Memory is read along its rows: whole panels where those are panels' rows, else a step of all of them at a time.
    const long panels = last - first, steps = (to - from + STEP - 1) / STEP;
    for (long i = 0; i < panels * steps; i++) {
        const long p = along ? i / steps : i % panels, s = along ? i % steps : i / panels;
        const long start = (first + p) * SIDE, k = from + s * STEP;
        const long width = wide - start < SIDE ? wide - start : SIDE, count = to - k < STEP ? to - k : STEP;
        pack_step(
            x + (along ? start * stride + k : k * stride + start), stride, along, pairsDown, width, count, alpha,
            packed + (size_t)p * panelBytes + (size_t)s * BLOCK, w);
    }
}

AMX int ck_amx_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, void *packed) {
    watch w = {_mm512_setzero_si512()};
    const size_t panelBytes = (size_t)((k + STEP - 1) / STEP) * BLOCK;
    pack_panels(b, ldb, transposed != 0, 1, n, first, last, 0, k, 1, (char *)packed + (size_t)first * panelBytes, panelBytes, &w);
    return refused(&w);
}

// ---- multiplying

// What is fetched towards the first caches while a tile is summed: some lines a step of the right panel's next part, and the next sums.
typedef struct {
    const char *right;
    long lines;
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
        for (long line = 0; line < next.lines; line++, next.right += 64) _mm_prefetch(next.right, _MM_HINT_T1);
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

AMX static void panels_product(
    long height, long width, const char *a, const char *b, long steps, int adds, const float *bias, float *c, long ldc, upcoming next) {
    if (height == SIDE && width == SIDE) return tiles(2, 2, a, b, steps, adds ? c : bias, adds ? ldc : 0, c, ldc, next);
    // At an edge the sums stand in a square of their own.
    _Alignas(64) float square[SIDE * SIDE];
    if (adds) {
        for (long r = 0; r < SIDE; r++)
            for (long half = 0; half < 2; half++)
                _mm512_store_ps(
                    square + r * SIDE + half * 16, _mm512_maskz_loadu_ps(r < height ? lanes(width - half * 16) : 0, c + r * ldc + half * 16));
    }
    const float *start = adds ? square : bias;
    const long stride = adds ? SIDE : 0;
    if (height > 16 && width > 16) tiles(2, 2, a, b, steps, start, stride, square, SIDE, next);
    else if (height > 16) tiles(2, 1, a, b, steps, start, stride, square, SIDE, next);
    else if (width > 16) tiles(1, 2, a, b, steps, start, stride, square, SIDE, next);
    else tiles(1, 1, a, b, steps, start, stride, square, SIDE, next);
    for (long r = 0; r < height; r++)
        for (long half = 0; half < 2; half++)
            _mm512_mask_storeu_ps(c + r * ldc + half * 16, lanes(width - half * 16), _mm512_load_ps(square + r * SIDE + half * 16));
}

// All rows of one packed block of the left operand with one panel of the right one: of the panel, what stays in the first cache meets all rows.
AMX static void column_product(
    long rows, long width, const char *left, size_t leftBytes, const char *right, long steps, long blocksToNext, int adds, const float *bias,
    float *c, long ldc) {
    const long panels = (rows + SIDE - 1) / SIDE;
    upcoming next = {.lines = (BLOCK / 64 + panels - 1) / panels, .stride = ldc};
    for (long s = 0; s < steps; s += STEPS) {
        const long some = steps - s < STEPS ? steps - s : STEPS;
        const int last = s + some == steps;
        const char *later = right + (size_t)(last ? blocksToNext : s + some) * BLOCK;
        for (long i = 0; i < panels; i++) {
            next.right = later + i * some * next.lines * 64;
            next.sums = i + 1 < panels ? c + (i + 1) * SIDE * ldc : c + (last ? SIDE : 0);
            const long height = rows - i * SIDE < SIDE ? rows - i * SIDE : SIDE;
            panels_product(
                height, width, left + (size_t)i * leftBytes + (size_t)s * BLOCK, right + (size_t)s * BLOCK, some, adds || s > 0, bias,
                c + i * SIDE * ldc, ldc, next);
        }
    }
}

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_configuration;

// Whether an operand is refused, without packing it.
AMX static int refuses(float alpha, const float *a, long lda, long rows, long columns) {
    __m512i most = _mm512_setzero_si512();
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < columns; i += 16) {
            const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes(columns - i), a + r * lda + i), _mm512_set1_ps(alpha));
            most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
        }
    return _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(0x7f7f8000)) != 0;
}

AMX int ck_amx_multiply_packed(
    float alpha, const float *a, long lda, int transposed, const void *packed, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated) {
    if (m <= 0 || n <= 0) return 0;
    // Sums that are added to must not be touched before all of a is known.
    if (accumulate && (transposed ? refuses(alpha, a, lda, k, m) : refuses(alpha, a, lda, m, k))) return 1;
    if (accumulate && bias)
        for (long i = 0; i < m; i++) ck_add(c + i * ldc, bias, c + i * ldc, n);
    // A block of a that fills a good third of the second cache is packed at a time, and meets all of b.
    const long depth = k < DEPTH ? (k + STEP - 1) / STEP * STEP : DEPTH;
    const long height = m < ROWS ? (m + SIDE - 1) / SIDE * SIDE : ROWS;
    const size_t leftBytes = (size_t)depth / STEP * BLOCK, rightBytes = (size_t)((k + STEP - 1) / STEP) * BLOCK;
    const size_t scratchBytes = (size_t)height / SIDE * leftBytes;
    char *left = ck_allocate(scratchBytes);
    watch w = {_mm512_setzero_si512()};
    tile_configuration configuration = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        configuration.bytes[i] = 64;
        configuration.rows[i] = 16;
    }
    _tile_loadconfig(&configuration);
    for (long top = 0; top < m; top += height) {
        const long rows = m - top < height ? m - top : height;
        for (long from = 0; from < k; from += depth) {
            const long to = from + depth < k ? from + depth : k;
            const float *block = a + (transposed ? from * lda + top : top * lda + from);
            pack_panels(block, lda, !transposed, 0, rows, 0, (rows + SIDE - 1) / SIDE, 0, to - from, alpha, left, leftBytes, &w);
            const long steps = (to - from + STEP - 1) / STEP;
            for (long column = 0; column < n; column += SIDE) {
                const long width = n - column < SIDE ? n - column : SIDE;
                const char *right = (const char *)packed + (size_t)(column / SIDE) * rightBytes + (size_t)(from / STEP) * BLOCK;
                _Alignas(64) float row[SIDE];
                if (bias) {
                    _mm512_store_ps(row, _mm512_maskz_loadu_ps(lanes(width), bias + column));
                    _mm512_store_ps(row + 16, _mm512_maskz_loadu_ps(lanes(width - 16), bias + column + 16));
                }
                column_product(
                    rows, width, left, leftBytes, right, steps, (long)(rightBytes / BLOCK), accumulate || from > 0, bias ? row : 0,
                    c + top * ldc + column, ldc);
            }
        }
        if (activated) {
            float *target = activated + top * ldc;
            if (ldc == n) ck_activate(activation, c + top * ldc, target, rows * n);
            else
                for (long i = 0; i < rows; i++) ck_activate(activation, c + (top + i) * ldc, target + i * ldc, n);
        }
    }
    _tile_release();
    ck_release(left, scratchBytes);
    return refused(&w);
}

#else

int ck_amx(void) { return 0; }

int ck_amx_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, void *packed) {
    (void)b, (void)ldb, (void)transposed, (void)k, (void)n, (void)first, (void)last, (void)packed;
    return 1;
}

int ck_amx_multiply_packed(
    float alpha, const float *a, long lda, int transposed, const void *packed, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated) {
    (void)alpha, (void)a, (void)lda, (void)transposed, (void)packed, (void)m, (void)n, (void)k, (void)c, (void)ldc, (void)accumulate;
    (void)bias, (void)activation, (void)activated;
    return 1;
}

#endif
