#include "attention_tiles.h"

// A tile of keys meets all groups of up to 48 queries in turn. For each: scores (q packed transposed, a register block of 8 keys), then
// exponentials in place, then the values' product, which adds to the transposed output. Scores are taken relative to a reference that starts
// at zero and moves only where a maximum leaves ±60 bits: with ordinary inputs nothing is ever rescaled, and what is compared is exact.
enum { KEY_TILE = 128, QUERY_TILE = 384 };
#define LIMIT (60.0f * CK_SCORE_UNIT)

// A tile's packed queries and output (at a width of 128, 200 KiB each) stay in the second cache beside a tile of keys and values.
long ck_attention_query_tile(void) { return QUERY_TILE; }

long ck_attention_forward_scratch(long queries, long width) {
    const long lanes = ck_round_up(queries, CK_LANES), columns = ck_round_up(width, CK_KEY_ROWS);
    return lanes * (2 * columns + 2) + KEY_TILE * CK_GROUP * CK_LANES + CK_KEY_ROWS * width;
}

typedef struct {
    const ck_attention *head;
    const float *tail;  // the keys behind the last eight, the last one repeated
    float *scores;
} tile_context;

/// Exponentials of one tile; `top` holds the maxima of its scores, relative to the reference.
CK_INLINE void exponentials(
    const int vectors, float *scores, long keys, const float *top, float *minusReference, float *sums, float *output, long columns,
    int first) {
    const long stride = vectors * CK_LANES;
    int moves = 0;
    for (long i = 0; i < stride; i++) moves |= (top[i] > LIMIT) | (first & (top[i] < -LIMIT));
    if (moves) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            float shifts[CK_LANES];
            for (int l = 0; l < CK_LANES; l++) {
                const float t = top[v * CK_LANES + l];
                shifts[l] = t > LIMIT || (first && t < -LIMIT) ? t : 0.0f;
            }
            const vf shift = CK_LOAD(shifts);
            float *column = scores + v * CK_LANES;
            for (long k = 0; k < keys; k++) CK_STORE(column + k * stride, CK_LOAD(column + k * stride) - shift);
            CK_STORE(minusReference + v * CK_LANES, CK_LOAD(minusReference + v * CK_LANES) - shift);
            if (!first) {
                vf correction;
                CK_EXP2_UNITS(correction, -shift);
                CK_STORE(sums + v * CK_LANES, CK_LOAD(sums + v * CK_LANES) * correction);
                column = output + v * CK_LANES;
                for (long c = 0; c < columns; c++) CK_STORE(column + c * stride, CK_LOAD(column + c * stride) * correction);
            }
        }
    }
    vf total[CK_GROUP];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) total[v] = CK_SPLAT(0.0f);
    for (long k = 0; k < keys; k++) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            vf e;
            CK_EXP2_UNITS(e, CK_LOAD(scores + v * CK_LANES));
            total[v] += e;
            CK_STORE(scores + v * CK_LANES, e);
        }
        scores += stride;
    }
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) CK_STORE(sums + v * CK_LANES, first ? total[v] : total[v] + CK_LOAD(sums + v * CK_LANES));
}

CK_INLINE void group_tile(
    const int pieceRows, const int pieceVectors, const int vectors, const tile_context *context, const float *query, float *output,
    float *minusReference, float *sums, long start, long keys) {
    const ck_attention *head = context->head;
    const long stride = vectors * CK_LANES, width = head->width;
    float top[CK_GROUP * CK_LANES];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) CK_STORE(top + v * CK_LANES, CK_SPLAT(-__FLT_MAX__));
    const float *key = head->k + start * head->keyStride;
    float *scores = context->scores;
    long k = 0;
    for (; k + CK_KEY_ROWS <= keys; k += CK_KEY_ROWS)
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, width, key + k * head->keyStride, head->keyStride, 1, query, stride,
            minusReference, 0, scores + k * stride, stride, top);
    if (k + 4 < keys)
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, width, context->tail, width, 1, query, stride, minusReference, 0,
            scores + k * stride, stride, top);
    else if (k < keys)
        ck_block(
            pieceRows, pieceVectors, 4, vectors, width, context->tail, width, 1, query, stride, minusReference, 0, scores + k * stride,
            stride, top);
    const long columns = ck_round_up(width, CK_KEY_ROWS);
    exponentials(vectors, scores, keys, top, minusReference, sums, output, columns, start == 0);
    const float *value = head->v + start * head->valueStride;
    for (long c = 0; c < columns; c += CK_KEY_ROWS) {
        float *into = output + c * stride;
        if (start == 0)
            ck_block(
                pieceRows, pieceVectors, CK_KEY_ROWS, vectors, keys, value + c, 1, head->valueStride, scores, stride, 0, 0, into, stride, 0);
        else
            ck_block(
                pieceRows, pieceVectors, CK_KEY_ROWS, vectors, keys, value + c, 1, head->valueStride, scores, stride, into, stride, into,
                stride, 0);
    }
}

/// log2 of positive numbers, absolute error about 1e-7.
#define LOG2(into, argument)                                                                                                                 \
    do {                                                                                                                                     \
        const vi b_ = (vi)(argument);                                                                                                        \
        const vi e_ = (b_ - 0x3f3504f3) >> 23; /* the exponent of x / sqrt(1/2) */                                                           \
        const vf m_ = (vf)(b_ - (e_ << 23));                                                                                                 \
        const vf s_ = (m_ - 1.0f) / (m_ + 1.0f), z_ = s_ * s_;                                                                               \
        vf p_ = z_ * (1.0f / 9.0f) + 1.0f / 7.0f;                                                                                            \
        p_ = p_ * z_ + 0.2f;                                                                                                                 \
        p_ = p_ * z_ + 1.0f / 3.0f;                                                                                                          \
        p_ = p_ * z_ + 1.0f;                                                                                                                 \
        (into) = __builtin_convertvector(e_, vf) + p_ * s_ * (2.0f * CK_LOG2_E);                                                             \
    } while (0)

CK_INLINE void forward(const int pieceRows, const int pieceVectors, const ck_attention *head, float *scratch) {
    const long queries = head->queries, width = head->width, columns = ck_round_up(width, CK_KEY_ROWS);
    const long registers = (queries + CK_LANES - 1) / CK_LANES, lanes = registers * CK_LANES;
    float *query = scratch, *output = query + lanes * columns, *minusReference = output + lanes * columns, *sums = minusReference + lanes;
    float *tail = sums + lanes + KEY_TILE * CK_GROUP * CK_LANES;
    const tile_context context = {head, tail, sums + lanes};

    for (long r = 0; r < registers;) {
        const long vectors = ck_group(registers - r);
        for (long v = 0; v < vectors; v++) {
            const long row = (r + v) * CK_LANES;
            ck_pack_transposed(
                head->q + row * head->queryStride, head->queryStride, queries - row, width, head->scale * CK_LOG2_E * CK_SCORE_UNIT,
                query + r * CK_LANES * columns + v * CK_LANES, vectors * CK_LANES);
        }
        r += vectors;
    }
    memset(minusReference, 0, sizeof(float) * (size_t)lanes);
    const long whole = head->keys / CK_KEY_ROWS * CK_KEY_ROWS;
    for (long k = whole; k < whole + CK_KEY_ROWS && whole < head->keys; k++)
        memcpy(
            tail + (k - whole) * width, head->k + (k < head->keys ? k : head->keys - 1) * head->keyStride, sizeof(float) * (size_t)width);

    for (long start = 0; start < head->keys; start += KEY_TILE) {
        const long keys = head->keys - start < KEY_TILE ? head->keys - start : KEY_TILE;
        for (long r = 0; r < registers;) {
            const long vectors = ck_group(registers - r), lane = r * CK_LANES, place = lane * columns;
#define GROUP(count)                                                                                                                         \
    group_tile(                                                                                                                              \
        pieceRows, pieceVectors, count, &context, query + place, output + place, minusReference + lane, sums + lane, start, keys)
            if (vectors == 3) GROUP(3);
            else if (vectors == 2) GROUP(2);
            else GROUP(1);
#undef GROUP
            r += vectors;
        }
    }
    for (long r = 0; r < registers;) {
        const long vectors = ck_group(registers - r);
        for (long v = 0; v < vectors; v++) {
            const long row = (r + v) * CK_LANES;
            const vf sum = CK_LOAD(sums + row);
            if (head->logs) {
                vf log;
                LOG2(log, sum);
                log = log * CK_SCORE_UNIT - CK_LOAD(minusReference + row);
                if (row + CK_LANES <= queries) CK_STORE(head->logs + row, log);
                else CK_STORE_PART(head->logs + row, log, queries - row);
            }
            CK_STORE(sums + row, 1.0f / sum);
            ck_unpack_transposed(
                output + r * CK_LANES * columns + v * CK_LANES, vectors * CK_LANES, sums + row, head->y + row * head->queryStride,
                head->queryStride, queries - row, width);
        }
        r += vectors;
    }
}

#ifdef CK_HAS_LEVELS
CK_LEVEL_4 static void forward_4(const ck_attention *head, float *scratch) { forward(8, 3, head, scratch); }
CK_LEVEL_3 static void forward_3(const ck_attention *head, float *scratch) { forward(4, 1, head, scratch); }
#endif
#if defined(__aarch64__)
static void forward_1(const ck_attention *head, float *scratch) { forward(4, 1, head, scratch); }
#else
static void forward_1(const ck_attention *head, float *scratch) { forward(2, 1, head, scratch); }
#endif

void ck_attention_forward(const ck_attention *head, float *scratch) {
#ifdef CK_HAS_LEVELS
    const int level = ck_vector_level();
    if (level == 4) return forward_4(head, scratch);
    if (level == 3) return forward_3(head, scratch);
#endif
    forward_1(head, scratch);
}
