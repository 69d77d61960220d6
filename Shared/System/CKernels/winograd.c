// Convolutions of three by three taps with stride one by Winograd's F(4x4, 3x3): every 4x4 tile of outputs takes 36 products a pair of
// channels instead of 144. Inputs, weights and sums are transformed a block at a time in the second cache and never stored as a whole: to
// transform them again for the next block costs less than to read them back from memory, and needs no memory.
//
// Interpolation points 0, +-P, +-Q and infinity with P = 5/8 and Q = 3/2: the relative error of a result is about 1e-6, half of what the
// customary +-1, +-2 give, as measured. On such points see Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution
// for Deep Neural Networks, 2020.
#include "CKernels.h"
#include "convolution.h"
#include "vector.h"

#define P 0.625f
#define Q 1.5f
#define PP (P * P)
#define QQ (Q * Q)

enum {
    TILE = 4,                                            // outputs of a tile on a side
    PATCH = 6,                                           // inputs of a tile on a side
    POINTS = 36,                                         // products of a tile
    TILES = CK_WINOGRAD_TILES,
    SPREAD = 16,                                         // keeps planes from falling into the same lines of a cache
    INPUT_PLANE = TILES * DEPTH + SPREAD,                // transformed inputs of a point: [tile][DEPTH]
    WEIGHT_PLANE = CK_WINOGRAD_OUTPUTS * DEPTH + SPREAD, // weights: [panel][DEPTH][PANEL]
    SUM_PLANE = TILES * CK_WINOGRAD_OUTPUTS + SPREAD,    // sums: [tile][output]
};

// B'd of one column or row: six inputs into six points.
#define TRANSFORM_INPUT(d0, d1, d2, d3, d4, d5, v0, v1, v2, v3, v4, v5)                                                                      \
    do {                                                                                                                                     \
        const vf evenP_ = (d4) - QQ * (d2), oddP_ = P * ((d3) - QQ * (d1)), evenQ_ = (d4) - PP * (d2), oddQ_ = Q * ((d3) - PP * (d1));       \
        (v0) = (d4) - (PP + QQ) * (d2) + PP * QQ * (d0);                                                                                     \
        (v1) = evenP_ + oddP_;                                                                                                               \
        (v2) = evenP_ - oddP_;                                                                                                               \
        (v3) = evenQ_ + oddQ_;                                                                                                               \
        (v4) = evenQ_ - oddQ_;                                                                                                               \
        (v5) = (d5) - (PP + QQ) * (d3) + PP * QQ * (d1);                                                                                     \
    } while (0)

// G g of one column or row: three taps into six points.
#define TRANSFORM_TAPS(g0, g1, g2, u0, u1, u2, u3, u4, u5)                                                                                   \
    do {                                                                                                                                     \
        const float atP_ = 1.0f / (2.0f * PP * (PP - QQ)), atQ_ = 1.0f / (2.0f * QQ * (QQ - PP));                                            \
        const vf evenP_ = atP_ * (g0) + (PP * atP_) * (g2), evenQ_ = atQ_ * (g0) + (QQ * atQ_) * (g2);                                       \
        (u0) = (1.0f / (PP * QQ)) * (g0);                                                                                                    \
        (u1) = evenP_ + (P * atP_) * (g1);                                                                                                   \
        (u2) = evenP_ - (P * atP_) * (g1);                                                                                                   \
        (u3) = evenQ_ + (Q * atQ_) * (g1);                                                                                                   \
        (u4) = evenQ_ - (Q * atQ_) * (g1);                                                                                                   \
        (u5) = (g2);                                                                                                                         \
    } while (0)

// A'm of one column or row: six points into four outputs.
#define TRANSFORM_SUMS(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3)                                                                               \
    do {                                                                                                                                     \
        const vf evenP_ = (m1) + (m2), oddP_ = (m1) - (m2), evenQ_ = (m3) + (m4), oddQ_ = (m3) - (m4);                                       \
        (y0) = (m0) + evenP_ + evenQ_;                                                                                                       \
        (y1) = P * oddP_ + Q * oddQ_;                                                                                                        \
        (y2) = PP * evenP_ + QQ * evenQ_;                                                                                                    \
        (y3) = (m5) + (P * PP) * oddP_ + (Q * QQ) * oddQ_;                                                                                   \
    } while (0)

// The compiler wants to have seen a function before it makes clones of it.
static void transform_inputs(const ck_winograd *s, const float *x, long tile, long tiles, long input, long inputs, float *v);
static void transform_weights(
    const ck_winograd *s, const float *weights, long output, long outputs, long input, long inputs, float *u);
static void transform_sums(
    const ck_winograd *s, const float *sums, const float *bias, float *y, int accumulate, long tile, long tiles, long output,
    long outputs);

long ck_winograd_tiles(const ck_winograd *s) { return s->batch * ((s->outHeight + 3) / TILE) * ((s->outWidth + 3) / TILE); }

long ck_winograd_scratch(void) { return POINTS * (INPUT_PLANE + WEIGHT_PLANE + SUM_PLANE); }

// One tile of `inputs` (whole vectors of them): pixel (i, j) of the patch is at x + i * down + j * across.
CK_INLINE void transform_tile(const float *x, long down, long across, long inputs, float *v) {
    for (long c = 0; c < inputs; c += CK_LANES) {
        const float *from = x + c;
        vf half[PATCH][PATCH];
#pragma clang loop unroll(full)
        for (int j = 0; j < PATCH; j++)
            TRANSFORM_INPUT(
                CK_LOAD(from + j * across), CK_LOAD(from + down + j * across), CK_LOAD(from + 2 * down + j * across),
                CK_LOAD(from + 3 * down + j * across), CK_LOAD(from + 4 * down + j * across), CK_LOAD(from + 5 * down + j * across),
                half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
#pragma clang loop unroll(full)
        for (int i = 0; i < PATCH; i++) {
            vf p[PATCH];
            TRANSFORM_INPUT(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5], p[0], p[1], p[2], p[3], p[4], p[5]);
#pragma clang loop unroll(full)
            for (int j = 0; j < PATCH; j++) CK_STORE(v + (i * PATCH + j) * INPUT_PLANE + c, p[j]);
        }
    }
}

// Inputs `input`... of some tiles into v[point][tile][DEPTH].
CK_CLONES static void transform_inputs(const ck_winograd *s, const float *x, long tile, long tiles, long input, long inputs, float *v) {
    const long across = (s->outWidth + 3) / TILE, down = (s->outHeight + 3) / TILE;
    for (long t = 0; t < tiles; t++, v += DEPTH) {
        const long b = (tile + t) / (across * down), h0 = (tile + t) / across % down * TILE - s->padding;
        const long w0 = (tile + t) % across * TILE - s->padding;
        const long top = h0 < 0 ? -h0 : 0, bottom = s->height - h0 < PATCH ? s->height - h0 : PATCH;
        const long left = w0 < 0 ? -w0 : 0, right = s->width - w0 < PATCH ? s->width - w0 : PATCH;
        const float *from = x + ((b * s->height + h0) * s->width + w0) * s->inputs + input;
        if (top == 0 && left == 0 && bottom == PATCH && right == PATCH && inputs % CK_LANES == 0) {
            transform_tile(from, s->width * s->inputs, s->inputs, inputs, v);
        } else {
            float patch[PATCH * PATCH * DEPTH];
            memset(patch, 0, sizeof patch);
            for (long i = top; i < bottom; i++)
                for (long j = left; j < right; j++)
                    memcpy(
                        patch + (i * PATCH + j) * DEPTH, from + (i * s->width + j) * s->inputs, sizeof(float) * (size_t)inputs);
            transform_tile(patch, PATCH * DEPTH, DEPTH, ck_rounded(inputs, CK_LANES), v);
        }
    }
}

// The weights of sixteen outputs, `step` apart, and one input.
CK_INLINE void transform_taps(const float *weights, long step, int flipped, float *u) {
    vf g[9], half[PATCH][3], unused0, unused1, unused2;
    TURN(weights, step, 0, g[0], g[1], g[2], g[3]);
    TURN(weights, step, 4, g[4], g[5], g[6], g[7]);
    TURN(weights, step, 5, unused0, unused1, unused2, g[8]);
    (void)unused0, (void)unused1, (void)unused2;
    if (flipped)
        for (int i = 0; i < 4; i++) {
            const vf swap = g[i];
            g[i] = g[8 - i];
            g[8 - i] = swap;
        }
#pragma clang loop unroll(full)
    for (int j = 0; j < 3; j++)
        TRANSFORM_TAPS(g[j], g[3 + j], g[6 + j], half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
#pragma clang loop unroll(full)
    for (int i = 0; i < PATCH; i++) {
        vf p[PATCH];
        TRANSFORM_TAPS(half[i][0], half[i][1], half[i][2], p[0], p[1], p[2], p[3], p[4], p[5]);
#pragma clang loop unroll(full)
        for (int j = 0; j < PATCH; j++) CK_STORE(u + (i * PATCH + j) * WEIGHT_PLANE, p[j]);
    }
}

// Weights from inputs `input`... to outputs `output`... into u[point][panel][DEPTH][PANEL]; columns behind the outputs hold anything finite.
CK_CLONES static void transform_weights(
    const ck_winograd *s, const float *weights, long output, long outputs, long input, long inputs, float *u) {
    const long groups = (outputs + CK_LANES - 1) / CK_LANES, step = s->outputStride;
    const int byInput = s->inputStride > s->outputStride;
    // The inner loop walks along memory.
    for (long outer = 0; outer < (byInput ? inputs : groups); outer++)
        for (long inner = 0; inner < (byInput ? groups : inputs); inner++) {
            const long k = byInput ? outer : inner, first = (byInput ? inner : outer) * CK_LANES;
            const float *from = weights + (output + first) * step + (input + k) * s->inputStride;
            float *into = u + first / PANEL * PANEL * DEPTH + k * PANEL + first % PANEL;
            if (outputs - first >= CK_LANES) {
                if (s->flipped) transform_taps(from, step, 1, into);
                else transform_taps(from, step, 0, into);
            } else {
                float rows[9 * CK_LANES] = {0};
                for (long l = 0; l < outputs - first; l++) memcpy(rows + 9 * l, from + l * step, 9 * sizeof(float));
                transform_taps(rows, 9, s->flipped, into);
            }
        }
}

CK_CLONES static void transform_sums(
    const ck_winograd *s, const float *sums, const float *bias, float *y, int accumulate, long tile, long tiles, long output,
    long outputs) {
    const long across = (s->outWidth + 3) / TILE, down = (s->outHeight + 3) / TILE;
    for (long t = 0; t < tiles; t++, sums += CK_WINOGRAD_OUTPUTS) {
        const long b = (tile + t) / (across * down), h0 = (tile + t) / across % down * TILE, w0 = (tile + t) % across * TILE;
        const long height = s->outHeight - h0 < TILE ? s->outHeight - h0 : TILE, width = s->outWidth - w0 < TILE ? s->outWidth - w0 : TILE;
        float *image = y + ((b * s->outHeight + h0) * s->outWidth + w0) * s->outputs + output;
        for (long c = 0; c < outputs; c += CK_LANES) {
            const long n = outputs - c < CK_LANES ? outputs - c : CK_LANES;
            vf half[TILE][PATCH];
#pragma clang loop unroll(full)
            for (int j = 0; j < PATCH; j++) {
                const float *m = sums + j * SUM_PLANE + c;
                TRANSFORM_SUMS(
                    CK_LOAD(m), CK_LOAD(m + PATCH * SUM_PLANE), CK_LOAD(m + 2 * PATCH * SUM_PLANE), CK_LOAD(m + 3 * PATCH * SUM_PLANE),
                    CK_LOAD(m + 4 * PATCH * SUM_PLANE), CK_LOAD(m + 5 * PATCH * SUM_PLANE), half[0][j], half[1][j], half[2][j], half[3][j]);
            }
            vf shift = CK_SPLAT(0.0f);
            if (bias && n == CK_LANES) shift = CK_LOAD(bias + output + c);
            else if (bias) CK_LOAD_PART(shift, bias + output + c, n, 0.0f);
            for (long i = 0; i < height; i++) {
                vf o[TILE];
                TRANSFORM_SUMS(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5], o[0], o[1], o[2], o[3]);
                for (long j = 0; j < width; j++) {
                    float *into = image + (i * s->outWidth + j) * s->outputs + c;
                    vf v = o[j] + shift;
                    if (n == CK_LANES) {
                        if (accumulate) v += CK_LOAD(into);
                        CK_STORE(into, v);
                    } else {
                        vf old = CK_SPLAT(0.0f);
                        if (accumulate) CK_LOAD_PART(old, into, n, 0.0f);
                        v += old;
                        CK_STORE_PART(into, v, n);
                    }
                }
            }
        }
    }
}

void ck_winograd_part(
    const ck_winograd *s, const float *x, const float *weights, const float *bias, float *y, int accumulate, long tile, long tiles,
    long output, long outputs, float *scratch) {
    float *v = scratch, *u = v + POINTS * INPUT_PLANE, *sums = u + POINTS * WEIGHT_PLANE;
    for (long input = 0; input < s->inputs; input += DEPTH) {
        const long depth = s->inputs - input < DEPTH ? s->inputs - input : DEPTH;
        transform_inputs(s, x, tile, tiles, input, depth, v);
        transform_weights(s, weights, output, outputs, input, depth, u);
        for (long p = 0; p < POINTS; p++)
            ck_block_products(
                v + p * INPUT_PLANE, u + p * WEIGHT_PLANE, depth, sums + p * SUM_PLANE, CK_WINOGRAD_OUTPUTS, tiles, outputs, input > 0);
    }
    transform_sums(s, sums, bias, y, accumulate, tile, tiles, output, outputs);
}
