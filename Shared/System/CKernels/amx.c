// Float32 products as three bfloat16 products on the CPU's matrix tiles. A tile is 16 rows of 64 bytes; eight of them stand in registers, and one
// instruction multiplies 16 x 32 by 32 x 16 bfloat16 numbers into 16 x 16 Float32 sums. Four tiles hold 32 x 32 sums, the other four take turns as
// both halves of both operands: eight loads for twelve products, so the tiles run at their peak from the second cache.
//
// Both operands are packed into panels of 32 rows (or columns). A panel is a run of 4 KiB steps of 32 values of k, each of them four tiles: the
// upper and the lower sixteen rows of the first halves, then of the second halves.
#define _GNU_SOURCE
#include "amx.h"

// A block of the left operand, packed at a time, is at most ROWS x DEPTH: 832 KiB, less than half of the second cache.
enum { ROWS = 256, DEPTH = 832 };

size_t ck_amx_packed_bytes(long k, long n) { return (size_t)((n + SIDE - 1) / SIDE) * (size_t)((k + STEP - 1) / STEP) * BLOCK; }

#ifdef CK_HAS_AMX
#include <cpuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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

AMX void ck_amx_pack_panels(
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

void *ck_amx_allocate(size_t bytes) {
    void *block = ck_allocate(bytes);
    // Every 4 KiB of a panel are read at once, then not again for a while: with small pages each would cost a walk of the page tables.
    const uintptr_t large = 1u << 21, start = ((uintptr_t)block + large - 1) / large * large, end = ((uintptr_t)block + bytes) / large * large;
    if (block && end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
    return block;
}

AMX int ck_amx_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, void *packed) {
    watch w = {_mm512_setzero_si512()};
    const size_t panelBytes = (size_t)((k + STEP - 1) / STEP) * BLOCK;
    ck_amx_pack_panels(b, ldb, transposed != 0, 1, n, first, last, 0, k, 1, (char *)packed + (size_t)first * panelBytes, panelBytes, &w);
    return refused(&w);
}

// ---- multiplying

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

// The values that will be packed next: `rows` rows of `lines` cache lines.
typedef struct {
    const float *values;
    long stride, rows, lines;
} source;

// All rows of one packed block of the left operand with one panel of the right one.
AMX static void column_product(
    long rows, long width, const char *left, const char *right, long steps, const char *nextRight, int adds, const float *bias, float *c,
    long ldc, source *later) {
    const long panels = (rows + SIDE - 1) / SIDE, lines = (BLOCK / 64 + panels - 1) / panels;
    for (long i = 0; i < panels; i++) {
        upcoming next = {.right = nextRight + i * steps * lines * 64, .rightLines = lines, .stride = ldc};
        next.sums = i + 1 < panels ? c + (i + 1) * SIDE * ldc : c + SIDE;
        if (later->rows > 0) {
            next.left = (const char *)later->values;
            next.leftLines = (later->lines + steps - 1) / steps;
            later->values += later->stride;
            later->rows--;
        }
        const long height = rows - i * SIDE < SIDE ? rows - i * SIDE : SIDE;
        panels_product(
            height, width, left + (size_t)(i * steps) * BLOCK, right, steps, adds, bias, c + i * SIDE * ldc, ldc, next);
    }
}

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
    const long panels = (m + SIDE - 1) / SIDE, allSteps = (k + STEP - 1) / STEP;
    const long rowBlocks = (m + ROWS - 1) / ROWS, depthBlocks = (k + DEPTH - 1) / DEPTH;
    const long height = (panels + rowBlocks - 1) / rowBlocks * SIDE, depth = (allSteps + depthBlocks - 1) / depthBlocks * STEP;
    const size_t scratchBytes = (size_t)(height / SIDE) * (size_t)(depth / STEP) * BLOCK;
    char *left = ck_allocate(scratchBytes);
    watch w = {_mm512_setzero_si512()};
    start_tiles();
    for (long top = 0; top < m; top += height) {
        const long rows = m - top < height ? m - top : height;
        for (long from = 0; from < k; from += depth) {
            const long to = from + depth < k ? from + depth : k;
            const long steps = (to - from + STEP - 1) / STEP;
            const float *block = a + (transposed ? from * lda + top : top * lda + from);
            ck_amx_pack_panels(
                block, lda, !transposed, 0, rows, 0, (rows + SIDE - 1) / SIDE, 0, to - from, alpha, left, (size_t)steps * BLOCK, &w);
            const long nextTop = to < k ? top : top + height, nextFrom = to < k ? to : 0;
            source later = {.stride = lda};
            if (nextTop < m) {
                const long nextRows = m - nextTop < height ? m - nextTop : height, nextDepth = k - nextFrom < depth ? k - nextFrom : depth;
                later.values = a + (transposed ? nextFrom * lda + nextTop : nextTop * lda + nextFrom);
                later.rows = transposed ? nextDepth : nextRows;
                later.lines = ((transposed ? nextRows : nextDepth) + 15) / 16;
            }
            const char *right = (const char *)packed + (size_t)(from / STEP) * BLOCK;
            for (long column = 0; column < n; column += SIDE, right += (size_t)allSteps * BLOCK) {
                const long width = n - column < SIDE ? n - column : SIDE;
                _Alignas(64) float row[SIDE];
                if (bias) {
                    _mm512_store_ps(row, _mm512_maskz_loadu_ps(lanes(width), bias + column));
                    _mm512_store_ps(row + 16, _mm512_maskz_loadu_ps(lanes(width - 16), bias + column + 16));
                }
                column_product(
                    rows, width, left, right, steps, right + (size_t)allSteps * BLOCK, accumulate || from > 0, bias ? row : 0,
                    c + top * ldc + column, ldc, &later);
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
void *ck_amx_allocate(size_t bytes) { return ck_allocate(bytes); }

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
