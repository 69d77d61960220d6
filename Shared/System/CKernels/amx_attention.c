// Attention of some queries of a head on matrix tiles, in the arithmetic of amx.c. Scores of 32 queries and a tile of keys are multiplied, turned
// into exponentials row by row, which leave the registers as two bfloat16 halves in the layout of a left operand, and multiplied by the values.
// Tiles and vector registers work at the same time: while the scores of a panel are multiplied, a row or two of the panel before it go through
// the exponentials at every step.
#include "amx.h"

// Queries and sums of a width of 128 take 128 KiB each, beside a tile of keys and values of 64 KiB each.
enum { KEY_TILE = 128, QUERY_TILE = 256 };

long ck_amx_attention_queries(void) { return QUERY_TILE; }

static long padded(long n) { return (n + SIDE - 1) / SIDE * SIDE; }

size_t ck_amx_attention_scratch(long width) {
    return (size_t)QUERY_TILE * (size_t)padded(width) * 8 + (size_t)KEY_TILE * SIDE * 12 + 2 * QUERY_TILE * sizeof(float);
}

#ifdef CK_HAS_AMX

// The scores of one panel of 32 queries and one tile of keys on their way to the values.
typedef struct {
    const float *scores;
    char *halves;
    float *references, *totals, *output;
    const char *value;
    long keys, columns, rows, row;  // row: the next that is to go through the exponentials
    int first;
} panel;

// One row of scores, in bits: subtracts the row's reference, and writes the exponentials' halves. The reference is the first tile's maximum, and
// moves only where an exponential would grow beyond 2^40; sums and output so far are then scaled.
AMX_INLINE void exponentials(panel *p) {
    const long r = p->row++, keys = p->keys;
    const float *scores = p->scores + r * KEY_TILE;
    char *halves = p->halves + r / 16 * TILE + r % 16 * 64;  // row r of the upper or the lower sixteen
    __m512 top = _mm512_set1_ps(-__FLT_MAX__);
    long k = 0;
    for (; k + 16 <= keys; k += 16) top = _mm512_max_ps(top, _mm512_load_ps(scores + k));
    if (k < keys) top = _mm512_mask_max_ps(top, lanes(keys - k), top, _mm512_load_ps(scores + k));
    const float most = _mm512_reduce_max_ps(top);
    float before = 0;
    if (p->first) {
        p->references[r] = most;
    } else {
        before = p->totals[r];
        if (most > p->references[r] + 40) {
            const float factor = __builtin_exp2f(p->references[r] - most);
            p->references[r] = most;
            before *= factor;
            float *output = p->output + r * p->columns;
            for (long c = 0; c < p->columns; c += 16)
                _mm512_store_ps(output + c, _mm512_mul_ps(_mm512_load_ps(output + c), _mm512_set1_ps(factor)));
        }
    }
    const __m512 base = _mm512_set1_ps(p->references[r]);
    __m512 sum = _mm512_setzero_ps();
    for (k = 0; k < keys; k += STEP, halves += BLOCK) {
        __m512 e[2];
        for (int half = 0; half < 2; half++) {
            // Below 2^-100 of the reference they stay there: nothing, but no denormal.
            const __m512 x = _mm512_max_ps(_mm512_sub_ps(_mm512_load_ps(scores + k + half * 16), base), _mm512_set1_ps(-100));
            e[half] = power_of_two(x);
        }
        if (k + STEP > keys) {
            e[0] = _mm512_maskz_mov_ps(lanes(keys - k), e[0]);
            e[1] = _mm512_maskz_mov_ps(lanes(keys - k - 16), e[1]);
        }
        sum = _mm512_add_ps(sum, _mm512_add_ps(e[0], e[1]));
        __m512i one, other;
        watch ignored = {_mm512_setzero_si512()};
        split(e[0], e[1], &one, &other, &ignored);
        _mm512_store_si512(halves, one);
        _mm512_store_si512(halves + 2 * TILE, other);
    }
    p->totals[r] = before + _mm512_reduce_add_ps(sum);
}

// Scores of one panel of queries and all panels of a tile of keys, while `before` (if there is one) goes through the exponentials.
AMX_INLINE void panel_scores(const char *query, const char *key, long steps, long keySteps, float *scores, panel *before) {
    const int rows = 2, columns = 2;
    const long rowsAtOnce = before ? (before->rows + steps * keySteps - 1) / (steps * keySteps) : 0;
    for (long s = 0; s < keySteps; s++) {
        const char *a = query;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long i = 0; i < steps; i++, a += BLOCK, key += BLOCK) {
            LOAD_A(a)
            LOAD_B(key + 2 * TILE)
            PRODUCTS
            LOAD_B(key)
            PRODUCTS
            LOAD_A(a + 2 * TILE)
            PRODUCTS
            for (long row = 0; row < rowsAtOnce && before->row < before->rows; row++) exponentials(before);
        }
        _tile_stored(0, scores + s * SIDE, KEY_TILE * 4);
        _tile_stored(1, scores + s * SIDE + 16, KEY_TILE * 4);
        _tile_stored(2, scores + s * SIDE + 16 * KEY_TILE, KEY_TILE * 4);
        _tile_stored(3, scores + s * SIDE + 16 * KEY_TILE + 16, KEY_TILE * 4);
    }
}

// output (+)= exponentials * values
AMX static void finish_panel(panel *p, size_t panelBytes) {
    while (p->row < p->rows) exponentials(p);
    const upcoming next = {.sums = p->output};
    for (long c = 0; c < p->columns; c += SIDE)
        tiles(
            2, 2, p->halves, p->value + (size_t)(c / SIDE) * panelBytes, padded(p->keys) / STEP, p->first ? 0 : p->output + c, p->columns,
            p->output + c, p->columns, next);
}

AMX int ck_amx_attention_forward(const ck_attention *head, const void *packedKeys, const void *packedValues, void *scratch) {
    const long width = head->width, columns = padded(width), steps = columns / STEP;
    const long panels = (head->queries + SIDE - 1) / SIDE, tilesOfKeys = (head->keys + KEY_TILE - 1) / KEY_TILE;
    const size_t panelBytes = (size_t)(padded(head->keys) / STEP) * BLOCK;
    char *queries = scratch;
    float *sums = (float *)(queries + QUERY_TILE * columns * 4), *scores = sums + QUERY_TILE * columns;
    char *halves = (char *)(scores + 2 * KEY_TILE * SIDE);
    float *references = (float *)(halves + KEY_TILE * SIDE * 4), *totals = references + QUERY_TILE;
    watch w = {_mm512_setzero_si512()};
    ck_amx_pack_panels(
        head->q, head->queryStride, 1, 0, head->queries, 0, panels, 0, width, head->scale * 1.44269504088896341f, queries,
        (size_t)steps * BLOCK, &w);
    if (refused(&w)) return 1;
    start_tiles();
    panel before = {0};
    for (long i = 0; i < tilesOfKeys * panels; i++) {
        const long start = i / panels * KEY_TILE, top = i % panels * SIDE;
        panel next = {
            .scores = scores + i % 2 * KEY_TILE * SIDE, .halves = halves, .references = references + top, .totals = totals + top,
            .output = sums + top * columns, .value = (const char *)packedValues + (size_t)(start / STEP) * BLOCK,
            .keys = head->keys - start < KEY_TILE ? head->keys - start : KEY_TILE, .columns = columns,
            .rows = head->queries - top < SIDE ? head->queries - top : SIDE, .first = start == 0};
        panel_scores(
            queries + (size_t)(top / SIDE * steps) * BLOCK, (const char *)packedKeys + (size_t)(start / SIDE * steps) * BLOCK, steps,
            padded(next.keys) / STEP, scores + i % 2 * KEY_TILE * SIDE, i > 0 ? &before : 0);
        if (i > 0) finish_panel(&before, panelBytes);
        before = next;
    }
    finish_panel(&before, panelBytes);
    _tile_release();
    for (long row = 0; row < head->queries; row++) {
        const __m512 factor = _mm512_set1_ps(1 / totals[row]);
        for (long c = 0; c < width; c += 16)
            _mm512_mask_storeu_ps(
                head->y + row * head->queryStride + c, lanes(width - c), _mm512_mul_ps(_mm512_load_ps(sums + row * columns + c), factor));
        if (head->logs) head->logs[row] = __builtin_log2f(totals[row]) + references[row];
    }
    return 0;
}

#else

int ck_amx_attention_forward(const ck_attention *head, const void *packedKeys, const void *packedValues, void *scratch) {
    (void)head, (void)packedKeys, (void)packedValues, (void)scratch;
    return 1;
}

#endif
