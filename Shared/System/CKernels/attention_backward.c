#include "attention_tiles.h"

// With P = 2^(scores - log), dP = v dyᵀ and δ = Σ dy y of each query:  dS = P (dP - δ),  dv = P dy,  dk = scale dS q,  dq = scale dSᵀ k.
// A range of keys is taken in stretches whose rows and gradients stay in the second cache; the queries pass by in tiles, each tile meets the
// stretch in blocks. Every product is computed once. Scores and slopes are [keys, queries], rows as long as the tile has (padded) queries.
enum { STRETCH = 512, QUERY_TILE = 192, KEY_BLOCK = 64 };

static long at_most(long a, long b) { return a < b ? a : b; }

typedef struct {
    const ck_attention_gradient *head;
    long columns;  // of a row in the buffers: the width rounded up to a register
    // Read through these, with their strides: the caller's rows where they need no padding and are not many, else copies.
    const float *keys, *values, *queryRows, *slopeRows;
    float *keyGradients, *valueGradients;
    long keyStride, queryStride, gradientStride;
    float *keyCopies, *valueCopies, *keySums, *valueSums;  // [stretch, columns]
    float *queryCopies, *slopeCopies;                      // [queries, columns]
    float *queryLanes, *slopeLanes;                        // packed transposed, in groups [columns, 16 … 48]
    float *logs, *deltas;                                  // of all queries, negative
    float *scores, *scoreSlopes;                           // [keys, queries]
    float *gradient;                                       // of all queries, packed as queryLanes
} workspace;

static long divide(const ck_attention_gradient *head, float *scratch, workspace *w) {
    const long stretch = ck_round_up(at_most(head->keys, STRETCH), CK_KEY_ROWS), lanes = ck_round_up(head->queries, CK_LANES);
    const long tile = at_most(lanes, QUERY_TILE), block = at_most(stretch, KEY_BLOCK), columns = ck_round_up(head->width, CK_LANES);
    const struct {
        float **place;
        long size;
    } parts[] = {
        {&w->keyCopies, stretch * columns}, {&w->valueCopies, stretch * columns}, {&w->keySums, stretch * columns},
        {&w->valueSums, stretch * columns}, {&w->queryCopies, tile * columns},    {&w->slopeCopies, tile * columns},
        {&w->queryLanes, tile * columns},   {&w->slopeLanes, tile * columns},     {&w->logs, lanes},
        {&w->deltas, lanes},                {&w->scores, block * tile},           {&w->scoreSlopes, block * tile},
        {&w->gradient, lanes * columns},
    };
    w->head = head;
    w->columns = columns;
    float *next = scratch;
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].place = next;
        next += parts[i].size;
    }
    return next - scratch;
}

long ck_attention_backward_scratch(const ck_attention_gradient *head) {
    workspace w;
    return divide(head, (float *)0, &w);
}

/// Rows with zeros behind them to the right and below.
static void copy_rows(const float *x, long stride, long rows, long width, float *y, long paddedRows, long columns) {
    ck_copy_rows(x, stride, rows, width, y, columns);
    memset(y + rows * columns, 0, sizeof(float) * (size_t)((paddedRows - rows) * columns));
}

/// What a tile of queries needs, in both layouts.
CK_INLINE void load_queries(const int level, const workspace *w, long start, long queries, long lanes) {
    const ck_attention_gradient *head = w->head;
    const float *q = head->q + start * head->queryStride, *dy = head->dy + start * head->queryStride;
    for (long r = 0; r < lanes;) {
        const long vectors = ck_group((lanes - r) / CK_LANES);
        for (long v = 0; v < vectors; v++) {
            const long row = r + v * CK_LANES, place = r * w->columns + v * CK_LANES;
            ck_pack_transposed(
                q + row * head->queryStride, head->queryStride, queries - row, head->width, head->scale * CK_LOG2_E * ck_score_unit(level),
                w->queryLanes + place, vectors * CK_LANES);
            ck_pack_transposed(
                dy + row * head->queryStride, head->queryStride, queries - row, head->width, 1, w->slopeLanes + place, vectors * CK_LANES);
        }
        r += vectors * CK_LANES;
    }
    if (w->queryRows != w->queryCopies) return;
    if (head->dk) copy_rows(q, head->queryStride, queries, head->width, w->queryCopies, lanes, w->columns);
    if (head->dv) copy_rows(dy, head->queryStride, queries, head->width, w->slopeCopies, lanes, w->columns);
}

/// -log and -δ of every query; lanes behind the last get a log that leaves nothing of any score.
CK_INLINE void load_logs(const workspace *w) {
    const ck_attention_gradient *head = w->head;
    const long lanes = ck_round_up(head->queries, CK_LANES), width = head->width;
    for (long r = 0; r < lanes; r++) {
        float sum = 0;
        if (r < head->queries) {
            const float *y = head->y + r * head->queryStride, *dy = head->dy + r * head->queryStride;
            vf partial = CK_SPLAT(0.0f);
            long c = 0;
            for (; c + CK_LANES <= width; c += CK_LANES) partial += CK_LOAD(y + c) * CK_LOAD(dy + c);
            CK_FOLD_SUM(sum, partial);
            for (; c < width; c++) sum += y[c] * dy[c];
        }
        w->deltas[r] = -sum;
        w->logs[r] = r < head->queries ? -head->logs[r] : -1e30f;
    }
}

/// Scores and dP of one group of queries and a block of keys, then P and dS in their places.
CK_INLINE void group_scores(
    const int pieceRows, const int pieceVectors, const ck_slopes apply, const int vectors, const workspace *w, long lane, long lanes,
    long start, long key, long keys) {
    const long stride = vectors * CK_LANES, place = lane * w->columns;
    float *scores = w->scores + lane, *slopes = w->scoreSlopes + lane;
    const float *minusLogs = w->logs + start + lane, *minusDeltas = w->deltas + start + lane;
    for (long k = 0; k < keys; k += CK_KEY_ROWS) {
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, w->head->width, w->keys + (key + k) * w->keyStride, w->keyStride, 1,
            w->queryLanes + place, stride, 0, minusLogs, 0, scores + k * lanes, lanes, 0);
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, w->head->width, w->values + (key + k) * w->keyStride, w->keyStride, 1,
            w->slopeLanes + place, stride, 0, minusDeltas, 0, slopes + k * lanes, lanes, 0);
        apply(scores + k * lanes, slopes + k * lanes, CK_KEY_ROWS, vectors, lanes);
    }
}

/// gradient[key, c] (+)= factor * sum over the tile's queries of scores[key, query] rows[query, c]; `factors` is the factor eight times.
CK_INLINE void add_to_keys(
    const int pieceRows, const int pieceVectors, const workspace *w, const float *scores, long lanes, const float *rows,
    const float *factors, float *gradient, long keys, int fresh) {
    const long stride = w->gradientStride;
    for (long c = 0; c < w->columns;) {
        const long vectors = ck_group((w->columns - c) / CK_LANES);
        for (long k = 0; k < keys; k += CK_KEY_ROWS) {
            float *into = gradient + k * stride + c;
            const float *plus = fresh ? (const float *)0 : into;
#define PIECES(count)                                                                                                                        \
    ck_block(                                                                                                                                \
        pieceRows, pieceVectors, CK_KEY_ROWS, count, lanes, scores + k * lanes, lanes, 1, rows + c, w->queryStride, factors, plus, stride,   \
        into, stride, 0)
            if (vectors == 3) PIECES(3);
            else if (vectors == 2) PIECES(2);
            else PIECES(1);
#undef PIECES
        }
        c += vectors * CK_LANES;
    }
}

/// gradient[c, query] (+)= sum over keys of key[key, c] slopes[key, query]
CK_INLINE void add_to_queries(
    const int pieceRows, const int pieceVectors, const int vectors, const workspace *w, float *gradient, const float *slopes, long lanes,
    const float *key, long keys, int fresh) {
    const long stride = vectors * CK_LANES;
    for (long c = 0; c < ck_round_up(w->head->width, CK_KEY_ROWS); c += CK_KEY_ROWS) {
        float *into = gradient + c * stride;
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, keys, key + c, 1, w->keyStride, slopes, lanes, 0,
            fresh ? (const float *)0 : into, stride, into, stride, 0);
    }
}

CK_INLINE void backward(
    const int level, const int pieceRows, const int pieceVectors, const ck_slopes apply, const ck_attention_gradient *head,
    float *scratch) {
    workspace space, *const w = &space;
    divide(head, scratch, w);
    load_logs(w);
    const long columns = w->columns;
    const int direct = head->width == columns && head->queries % CK_LANES == 0 && head->queries <= QUERY_TILE
        && head->keys % CK_KEY_ROWS == 0 && head->keys <= STRETCH;
    w->keys = direct ? head->k : w->keyCopies;
    w->values = direct ? head->v : w->valueCopies;
    w->queryRows = direct ? head->q : w->queryCopies;
    w->slopeRows = direct ? head->dy : w->slopeCopies;
    w->keyGradients = direct ? head->dk : w->keySums;
    w->valueGradients = direct ? head->dv : w->valueSums;
    w->keyStride = w->gradientStride = direct ? head->keyStride : columns;
    w->queryStride = direct ? head->queryStride : columns;
    float factors[CK_LANES];
    for (int l = 0; l < CK_LANES; l++) factors[l] = head->scale;
    for (long first = 0; first < head->keys; first += STRETCH) {
        const long stretch = at_most(head->keys - first, STRETCH), stretchRows = ck_round_up(stretch, CK_KEY_ROWS);
        if (!direct) {
            const long place = first * head->keyStride;
            copy_rows(head->k + place, head->keyStride, stretch, head->width, w->keyCopies, stretchRows, columns);
            copy_rows(head->v + place, head->keyStride, stretch, head->width, w->valueCopies, stretchRows, columns);
        }
        for (long start = 0; start < head->queries; start += QUERY_TILE) {
            const long queries = at_most(head->queries - start, QUERY_TILE), lanes = ck_round_up(queries, CK_LANES);
            load_queries(level, w, start, queries, lanes);
            for (long key = 0; key < stretch; key += KEY_BLOCK) {
                const long keys = at_most(stretch - key, KEY_BLOCK), place = key * w->gradientStride;
                for (long r = 0; r < lanes;) {
                    const long vectors = ck_group((lanes - r) / CK_LANES);
                    float *gradient = w->gradient + (start + r) * columns;
                    const int fresh = first + key == 0;
#define GROUP(count)                                                                                                                         \
    do {                                                                                                                                     \
        group_scores(pieceRows, pieceVectors, apply, count, w, r, lanes, start, key, keys);                                                  \
        if (head->dq)                                                                                                                        \
            add_to_queries(                                                                                                                  \
                pieceRows, pieceVectors, count, w, gradient, w->scoreSlopes + r, lanes, w->keys + key * w->keyStride, keys, fresh);          \
    } while (0)
                    if (vectors == 3) GROUP(3);
                    else if (vectors == 2) GROUP(2);
                    else GROUP(1);
#undef GROUP
                    r += vectors * CK_LANES;
                }
                if (head->dv)
                    add_to_keys(
                        pieceRows, pieceVectors, w, w->scores, lanes, w->slopeRows, (const float *)0, w->valueGradients + place, keys,
                        start == 0);
                if (head->dk)
                    add_to_keys(
                        pieceRows, pieceVectors, w, w->scoreSlopes, lanes, w->queryRows, factors, w->keyGradients + place, keys,
                        start == 0);
            }
        }
        if (direct) break;
        for (long k = 0; k < stretch; k++) {
            const long place = (first + k) * head->keyStride;
            if (head->dv) memcpy(head->dv + place, w->valueSums + k * columns, sizeof(float) * (size_t)head->width);
            if (head->dk) memcpy(head->dk + place, w->keySums + k * columns, sizeof(float) * (size_t)head->width);
        }
    }
    if (!head->dq) return;
    for (long start = 0; start < head->queries; start += QUERY_TILE) {
        const long lanes = ck_round_up(at_most(head->queries - start, QUERY_TILE), CK_LANES);
        for (long r = 0; r < lanes;) {
            const long vectors = ck_group((lanes - r) / CK_LANES);
            for (long v = 0; v < vectors; v++) {
                const long row = start + r + v * CK_LANES;
                ck_unpack_transposed(
                    w->gradient + (start + r) * columns + v * CK_LANES, vectors * CK_LANES, factors, head->dq + row * head->queryStride,
                    head->queryStride, head->queries - row, head->width);
            }
            r += vectors * CK_LANES;
        }
    }
}

#ifdef CK_HAS_LEVELS
CK_LEVEL_4 static void slopes_4(float *scores, float *slopes, long rows, int vectors, long stride) { CK_SLOPES(CK_EXP2_4, CK_EXP2_HIGH(4)) }
CK_LEVEL_3 static void slopes_3(float *scores, float *slopes, long rows, int vectors, long stride) { CK_SLOPES(CK_EXP2_1, CK_EXP2_HIGH(1)) }
CK_LEVEL_4 static void backward_4(const ck_attention_gradient *head, float *scratch) { backward(CK_BLOCKS_4, slopes_4, head, scratch); }
CK_LEVEL_3 static void backward_3(const ck_attention_gradient *head, float *scratch) { backward(CK_BLOCKS_3, slopes_3, head, scratch); }
#endif
static void slopes_1(float *scores, float *slopes, long rows, int vectors, long stride) { CK_SLOPES(CK_EXP2_1, CK_EXP2_HIGH(1)) }
static void backward_1(const ck_attention_gradient *head, float *scratch) { backward(CK_BLOCKS_1, slopes_1, head, scratch); }

void ck_attention_backward(const ck_attention_gradient *head, float *scratch) {
#ifdef CK_HAS_LEVELS
    const int level = ck_vector_level();
    if (level == 4) return backward_4(head, scratch);
    if (level == 3) return backward_3(head, scratch);
#endif
    backward_1(head, scratch);
}
