#include "attention_tiles.h"

// A tile of keys meets all groups of up to 48 queries in turn. For each: scores (q packed transposed, a register block of 8 keys), then
// exponentials in place, then the values' product, which adds to the transposed output. Scores are taken relative to a reference that starts
// at zero and moves only where a maximum leaves ±60 bits: with ordinary inputs nothing is ever rescaled, and what is compared is exact.
enum { KEY_TILE = 128, QUERY_TILE = 384, GROUP_LANES = CK_GROUP * CK_LANES };

// A tile's packed queries and output (at a width of 128, 200 KiB each) stay in the second cache beside a tile of keys and values.
long ck_attention_query_tile(void) { return QUERY_TILE; }

long ck_attention_forward_scratch(long queries, long width) {
    const long lanes = ck_round_up(queries, CK_LANES), columns = ck_round_up(width, CK_KEY_ROWS);
    return lanes * (2 * columns + 2) + KEY_TILE * GROUP_LANES + CK_KEY_ROWS * (width + GROUP_LANES);
}

typedef struct {
    const ck_attention *head;
    const float *tail;  // the keys behind the last eight, the last one repeated
    float *scores;
    float *rows;  // a block of output rows, some of which may lie behind the last query
} tile_context;

/// Exponentials of one tile; `top` holds the maxima of its scores, relative to the reference.
CK_INLINE void tile_exponentials(
    const int level, const ck_exponentials exponentials, const int vectors, float *scores, long keys, const float *top, float *minusReference, float *sums, float *output,
    long columns, int first) {
    const long stride = vectors * CK_LANES;
    const float limit = 60 * ck_score_unit(level);
    int moves = 0;
    for (long i = 0; i < stride; i++) moves |= (top[i] > limit) | (first & (top[i] < -limit));
    if (moves) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            float shifts[CK_LANES];
            for (int l = 0; l < CK_LANES; l++) {
                const float t = top[v * CK_LANES + l];
                shifts[l] = t > limit || (first && t < -limit) ? t : 0.0f;
            }
            const vf shift = CK_LOAD(shifts);
            float *column = scores + v * CK_LANES;
            for (long k = 0; k < keys; k++) CK_STORE(column + k * stride, CK_LOAD(column + k * stride) - shift);
            CK_STORE(minusReference + v * CK_LANES, CK_LOAD(minusReference + v * CK_LANES) - shift);
            if (!first) {
                float corrections[CK_LANES], same[CK_LANES];
                CK_STORE(corrections, -shift);
                exponentials(corrections, 1, 1, 0, same);
                const vf correction = CK_LOAD(corrections);
                CK_STORE(sums + v * CK_LANES, CK_LOAD(sums + v * CK_LANES) * correction);
                column = output + v * CK_LANES;
                for (long c = 0; c < columns; c++) CK_STORE(column + c * stride, CK_LOAD(column + c * stride) * correction);
            }
        }
    }
    if (first) return exponentials(scores, keys, vectors, stride, sums);
    float more[GROUP_LANES];
    exponentials(scores, keys, vectors, stride, more);
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) CK_STORE(sums + v * CK_LANES, CK_LOAD(sums + v * CK_LANES) + CK_LOAD(more + v * CK_LANES));
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

/// One group of queries (first register `lane / 16`) and one tile of keys; the first tile packs the queries, the last finishes the output.
CK_INLINE void group_tile(
    const int level, const int pieceRows, const int pieceVectors, const ck_exponentials exponentials, const int vectors,
    const tile_context *context, long lane, float *query,
    float *output, float *minusReference, float *sums, long start, long keys) {
    const ck_attention *head = context->head;
    const long stride = vectors * CK_LANES, width = head->width, columns = ck_round_up(width, CK_KEY_ROWS);
    const int first = start == 0, last = start + keys == head->keys;
    if (first) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            const long row = lane + v * CK_LANES;
            ck_pack_transposed(
                head->q + row * head->queryStride, head->queryStride, head->queries - row, width,
                head->scale * CK_LOG2_E * ck_score_unit(level), query + v * CK_LANES, stride);
            CK_STORE(minusReference + v * CK_LANES, CK_SPLAT(0.0f));
        }
    }
    float top[GROUP_LANES];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) CK_STORE(top + v * CK_LANES, CK_SPLAT(-__FLT_MAX__));
    const float *key = head->k + start * head->keyStride, *reference = first ? (const float *)0 : minusReference;
    float *scores = context->scores;
    long k = 0;
#define SCORES(rows, from, step)                                                                                                             \
    ck_block(                                                                                                                                \
        pieceRows, pieceVectors, rows, vectors, width, from, step, 1, query, stride, 0, reference, 0, scores + k * stride, stride, top)
    for (; k + CK_KEY_ROWS <= keys; k += CK_KEY_ROWS) SCORES(CK_KEY_ROWS, key + k * head->keyStride, head->keyStride);
    if (k + 4 < keys) SCORES(CK_KEY_ROWS, context->tail, width);
    else if (k < keys) SCORES(4, context->tail, width);
#undef SCORES
    tile_exponentials(level, exponentials, vectors, scores, keys, top, minusReference, sums, output, columns, first);
    if (last) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            const long row = lane + v * CK_LANES;
            const vf sum = CK_LOAD(sums + v * CK_LANES);
            if (head->logs) {
                vf log;
                LOG2(log, sum);
                log = log * ck_score_unit(level) - CK_LOAD(minusReference + v * CK_LANES);
                if (row + CK_LANES <= head->queries) CK_STORE(head->logs + row, log);
                else CK_STORE_PART(head->logs + row, log, head->queries - row);
            }
            CK_STORE(sums + v * CK_LANES, 1.0f / sum);
        }
    }

    const float *value = head->v + start * head->valueStride;
    if (first && last && width % CK_LANES == 0) {
        // Few keys: rows of the output at once, which need no transposition.
        for (long q = 0; q < stride && lane + q < head->queries; q += CK_KEY_ROWS) {
            const long rows = head->queries - lane - q;
            float *const y = head->y + (lane + q) * head->queryStride;
            for (long c = 0; c < width;) {
                const long breadth = ck_group((width - c) / CK_LANES);
                float *const into = rows < CK_KEY_ROWS ? context->rows : y + c;
                const long step = rows < CK_KEY_ROWS ? GROUP_LANES : head->queryStride;
#define ROWS(count)                                                                                                                          \
    ck_block(                                                                                                                                \
        pieceRows, pieceVectors, CK_KEY_ROWS, count, keys, scores + q, 1, stride, value + c, head->valueStride, sums + q, 0, 0, into, step, 0)
                if (breadth == 3) ROWS(3);
                else if (breadth == 2) ROWS(2);
                else ROWS(1);
#undef ROWS
                for (long r = 0; rows < CK_KEY_ROWS && r < rows; r++)
                    memcpy(y + r * head->queryStride + c, into + r * step, sizeof(float) * CK_LANES * (size_t)breadth);
                c += breadth * CK_LANES;
            }
        }
        return;
    }
    for (long c = 0; c < columns; c += CK_KEY_ROWS) {
        float *into = output + c * stride;
        ck_block(
            pieceRows, pieceVectors, CK_KEY_ROWS, vectors, keys, value + c, 1, head->valueStride, scores, stride, 0,
            first ? (const float *)0 : into, stride, into, stride, 0);
    }
    if (last) {
#pragma clang loop unroll(full)
        for (int v = 0; v < vectors; v++) {
            const long row = lane + v * CK_LANES;
            ck_unpack_transposed(
                output + v * CK_LANES, stride, sums + v * CK_LANES, head->y + row * head->queryStride, head->queryStride,
                head->queries - row, width);
        }
    }
}

CK_INLINE void forward(const int level, const int pieceRows, const int pieceVectors, const ck_exponentials exponentials, const ck_attention *head, float *scratch) {
    const long width = head->width, columns = ck_round_up(width, CK_KEY_ROWS);
    const long registers = (head->queries + CK_LANES - 1) / CK_LANES, lanes = registers * CK_LANES;
    float *query = scratch, *output = query + lanes * columns, *minusReference = output + lanes * columns, *sums = minusReference + lanes;
    float *scores = sums + lanes, *tail = scores + KEY_TILE * GROUP_LANES, *rows = tail + CK_KEY_ROWS * width;
    const tile_context context = {head, tail, scores, rows};
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
        level, pieceRows, pieceVectors, exponentials, count, &context, lane, query + place, output + place, minusReference + lane, sums + lane, start, keys)
            if (vectors == 3) GROUP(3);
            else if (vectors == 2) GROUP(2);
            else GROUP(1);
#undef GROUP
            r += vectors;
        }
    }
}

#ifdef CK_HAS_LEVELS
CK_LEVEL_4 static void exponentials_4(float *scores, long rows, int vectors, long stride, float *sums) { CK_EXPONENTIALS(CK_EXP2_4) }
CK_LEVEL_3 static void exponentials_3(float *scores, long rows, int vectors, long stride, float *sums) { CK_EXPONENTIALS(CK_EXP2_1) }
CK_LEVEL_4 static void forward_4(const ck_attention *head, float *scratch) { forward(CK_BLOCKS_4, exponentials_4, head, scratch); }
CK_LEVEL_3 static void forward_3(const ck_attention *head, float *scratch) { forward(CK_BLOCKS_3, exponentials_3, head, scratch); }
#endif
static void exponentials_1(float *scores, long rows, int vectors, long stride, float *sums) { CK_EXPONENTIALS(CK_EXP2_1) }
static void forward_1(const ck_attention *head, float *scratch) { forward(CK_BLOCKS_1, exponentials_1, head, scratch); }

void ck_attention_forward(const ck_attention *head, float *scratch) {
#ifdef CK_HAS_LEVELS
    const int level = ck_vector_level();
    if (level == 4) return forward_4(head, scratch);
    if (level == 3) return forward_3(head, scratch);
#endif
    forward_1(head, scratch);
}
