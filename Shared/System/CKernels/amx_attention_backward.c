#include "amx.h"

// Gradients of one head on matrix tiles, in the arithmetic of amx.c. Scores and slopes stand transposed, [keys, queries], so that a row of them is
// a row of the left operand that the gradients of keys and values need. Two rows at a time are woven into pairs as well: the right operand of the
// queries' gradient, which is therefore summed transposed, [width, queries].
enum { KEY_TILE = 128, QUERY_TILE = 128, KEY_STEPS = KEY_TILE / STEP };

static long padded(long n) { return (n + SIDE - 1) / SIDE * SIDE; }

// Where everything lies in the scratch, in floats. An element of a packed operand takes as much as a Float32.
typedef struct {
    long keys, values, turnedKeys;                                 // left operands: [keys, width] twice, [width, keys]
    long queriesDown, slopesDown, queries, slopes;                 // right operands: [width, queries] twice, [queries, width] twice
    long dq, dk, dv, scores, products, halves, slopeHalves, pairs, logs, deltas, end;
} places;

static places lay_out(const ck_attention_gradient *head) {
    const long n = padded(head->queries), m = padded(head->keys), d = padded(head->width);
    places p;
    p.keys = 0;
    p.values = p.keys + m * d;
    p.turnedKeys = p.values + m * d;
    p.queriesDown = p.turnedKeys + m * d;
    p.slopesDown = p.queriesDown + n * d;
    p.queries = p.slopesDown + n * d;
    p.slopes = p.queries + n * d;
    p.dq = p.slopes + n * d;
    p.dk = p.dq + n * d;
    p.dv = p.dk + KEY_TILE * d;
    p.scores = p.dv + KEY_TILE * d;
    p.products = p.scores + SIDE * QUERY_TILE;
    p.halves = p.products + SIDE * QUERY_TILE;
    p.slopeHalves = p.halves + SIDE * QUERY_TILE;
    p.pairs = p.slopeHalves + SIDE * QUERY_TILE;
    p.logs = p.pairs + KEY_TILE * QUERY_TILE;
    p.deltas = p.logs + n;
    p.end = p.deltas + n;
    return p;
}

size_t ck_amx_attention_backward_scratch(const ck_attention_gradient *head) { return sizeof(float) * (size_t)lay_out(head).end; }

#ifdef CK_HAS_AMX

// p = 2^(score - log) and p (product - delta) of 32 keys (those behind `keys` count as nothing) and some panels of queries, as left operands, and the
// latter as pairs of keys as well.
AMX static void slopes(
    const float *scores, const float *products, const float *logs, const float *deltas, long keys, long panels, char *halves, char *slopeHalves,
    char *pairs) {
    const __m512i low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    watch ignored = {_mm512_setzero_si512()};
    for (long panel = 0; panel < panels; panel++)
        for (long r = 0; r < SIDE; r += 2) {
            __m512i one[2], other[2];
            for (long i = 0; i < 2; i++) {
                const long place = (r + i) * QUERY_TILE + panel * SIDE;
                const __mmask16 exists = r + i < keys ? 0xffff : 0;
                __m512 p[2], s[2];
                for (long half = 0; half < 2; half++) {
                    const __m512 score = _mm512_load_ps(scores + place + half * 16), product = _mm512_load_ps(products + place + half * 16);
                    const long query = panel * SIDE + half * 16;
                    const __m512 log = _mm512_load_ps(logs + query), delta = _mm512_load_ps(deltas + query);
                    p[half] = _mm512_maskz_mov_ps(exists, power_of_two(_mm512_max_ps(_mm512_sub_ps(score, log), _mm512_set1_ps(-100))));
                    s[half] = _mm512_mul_ps(p[half], _mm512_sub_ps(product, delta));
                }
                const long row = panel * BLOCK + (r + i) / 16 * TILE + (r + i) % 16 * 64;
                __m512i first, second;
                split(p[0], p[1], &first, &second, &ignored);
                _mm512_store_si512(halves + row, first);
                _mm512_store_si512(halves + row + 2 * TILE, second);
                split(s[0], s[1], &one[i], &other[i], &ignored);
                _mm512_store_si512(slopeHalves + row, one[i]);
                _mm512_store_si512(slopeHalves + row + 2 * TILE, other[i]);
            }
            char *pair = pairs + panel * KEY_STEPS * BLOCK + r / 2 * 64;
            _mm512_store_si512(pair, _mm512_permutex2var_epi16(one[0], low, one[1]));
            _mm512_store_si512(pair + TILE, _mm512_permutex2var_epi16(one[0], high, one[1]));
            _mm512_store_si512(pair + 2 * TILE, _mm512_permutex2var_epi16(other[0], low, other[1]));
            _mm512_store_si512(pair + 3 * TILE, _mm512_permutex2var_epi16(other[0], high, other[1]));
        }
}

AMX static void product(const void *left, const void *right, long steps, int adds, float *c, long ldc) {
    const upcoming next = {.sums = c};
    tiles(2, 2, left, right, steps, adds ? c : 0, ldc, c, ldc, next);
}

AMX static void copy_rows(const float *sums, long columns, long rows, long width, float *y, long stride) {
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < width; c += 16)
            _mm512_mask_storeu_ps(y + r * stride + c, lanes(width - c), _mm512_load_ps(sums + r * columns + c));
}

AMX int ck_amx_attention_backward(const ck_attention_gradient *head, void *scratch) {
    const places at = lay_out(head);
    float *const base = scratch;
    const long n = head->queries, m = head->keys, width = head->width, columns = padded(width), steps = columns / STEP;
    const long allQueries = padded(n), querySteps = allQueries / STEP, keySteps = padded(m) / STEP;
    watch w = {_mm512_setzero_si512()};
#define PACK(x, stride, along, down, wide, depth, alpha, to)                                                                                  \
    ck_amx_pack_panels(                                                                                                                       \
        x, stride, along, down, wide, 0, padded(wide) / SIDE, 0, depth, alpha, (char *)(base + at.to), (size_t)padded(depth) / STEP * BLOCK, &w)
    PACK(head->k, head->keyStride, 1, 0, m, width, head->scale * 1.44269504088896341f, keys);
    PACK(head->v, head->keyStride, 1, 0, m, width, 1, values);
    PACK(head->k, head->keyStride, 0, 0, width, m, head->scale, turnedKeys);
    PACK(head->q, head->queryStride, 1, 1, n, width, 1, queriesDown);
    PACK(head->dy, head->queryStride, 1, 1, n, width, 1, slopesDown);
    PACK(head->q, head->queryStride, 0, 1, width, n, head->scale, queries);
    PACK(head->dy, head->queryStride, 0, 1, width, n, 1, slopes);
#undef PACK
    if (refused(&w)) return 1;
    float *logs = base + at.logs, *deltas = base + at.deltas;
    for (long q = 0; q < allQueries; q++) {
        logs[q] = q < n ? head->logs[q] : 0;
        __m512 sum = _mm512_setzero_ps();
        for (long c = 0; q < n && c < width; c += 16)
            sum = _mm512_fmadd_ps(
                _mm512_maskz_loadu_ps(lanes(width - c), head->y + q * head->queryStride + c),
                _mm512_maskz_loadu_ps(lanes(width - c), head->dy + q * head->queryStride + c), sum);
        deltas[q] = _mm512_reduce_add_ps(sum);
    }
    start_tiles();
    float *dq = base + at.dq, *dk = base + at.dk, *dv = base + at.dv, *scores = base + at.scores, *products = base + at.products;
    char *halves = (char *)(base + at.halves), *slopeHalves = (char *)(base + at.slopeHalves), *pairs = (char *)(base + at.pairs);
    const char *packed = scratch;
#define AT(place, panel, panelSteps, step) (packed + 4 * at.place + (size_t)((panel) * (panelSteps) + (step)) * BLOCK)
    for (long key = 0; key < m; key += KEY_TILE) {
        const long keyPanels = (m - key < KEY_TILE ? padded(m - key) : KEY_TILE) / SIDE;
        for (long query = 0; query < n; query += QUERY_TILE) {
            const long queryPanels = (n - query < QUERY_TILE ? padded(n - query) : QUERY_TILE) / SIDE;
            for (long i = 0; i < keyPanels; i++) {
                const long keyPanel = key / SIDE + i;
                for (long j = 0; j < queryPanels; j++) {
                    const long queryPanel = query / SIDE + j;
                    product(AT(keys, keyPanel, steps, 0), AT(queriesDown, queryPanel, steps, 0), steps, 0, scores + j * SIDE, QUERY_TILE);
                    product(AT(values, keyPanel, steps, 0), AT(slopesDown, queryPanel, steps, 0), steps, 0, products + j * SIDE, QUERY_TILE);
                }
                slopes(
                    scores, products, logs + query, deltas + query, m - keyPanel * SIDE, queryPanels, halves, slopeHalves, pairs + i * BLOCK);
                for (long c = 0; c < steps; c++) {
                    const long place = i * SIDE * columns + c * SIDE;
                    if (head->dv) product(halves, AT(slopes, c, querySteps, query / STEP), queryPanels, query > 0, dv + place, columns);
                    if (head->dk) product(slopeHalves, AT(queries, c, querySteps, query / STEP), queryPanels, query > 0, dk + place, columns);
                }
            }
            if (head->dq)
                for (long c = 0; c < steps; c++)
                    for (long j = 0; j < queryPanels; j++)
                        product(
                            AT(turnedKeys, c, keySteps, key / STEP), pairs + j * KEY_STEPS * BLOCK, keyPanels, key > 0,
                            dq + c * SIDE * allQueries + query + j * SIDE, allQueries);
        }
        const long rows = m - key < KEY_TILE ? m - key : KEY_TILE;
        if (head->dk) copy_rows(dk, columns, rows, width, head->dk + key * head->keyStride, head->keyStride);
        if (head->dv) copy_rows(dv, columns, rows, width, head->dv + key * head->keyStride, head->keyStride);
    }
#undef AT
    _tile_release();
    if (head->dq)
        for (long q = 0; q < n; q += 16)
            for (long c = 0; c < width; c += 16) {
                _Alignas(64) float square[16 * 16];
                for (long i = 0; i < 16; i++) _mm512_store_ps(square + i * 16, _mm512_load_ps(dq + (c + i) * allQueries + q));
                turn((char *)square);
                copy_rows(
                    square, 16, n - q < 16 ? n - q : 16, width - c < 16 ? width - c : 16, head->dq + q * head->queryStride + c,
                    head->queryStride);
            }
    return 0;
}

#else

int ck_amx_attention_backward(const ck_attention_gradient *head, void *scratch) {
    (void)head, (void)scratch;
    return 1;
}

#endif
