// Products of a block of inputs with panels of weights, small enough for the caches: what every convolution comes down to.
#include "convolution.h"

enum { ROWS = 12 };  // at most so many rows have their sums in registers together

static void block_products(
    const float *v, const float *u, long depth, float *sums, long stride, long rows, long outputs, int adds, int wide);

// sums[row][vector] (+)= v[row][...] u[...][vector]; `rows` and `vectors` are constants after inlining, so the sums live in registers.
CK_INLINE void product(
    const int rows, const int vectors, const float *v, const float *u, long depth, float *sums, long stride, int adds) {
    vf sum[ROWS][PANEL / CK_LANES];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < vectors; j++) {
            __builtin_prefetch(sums + i * stride + j * CK_LANES, 1);
            sum[i][j] = CK_SPLAT(0.0f);
        }
#pragma clang loop vectorize(disable) unroll(disable)
    for (long k = 0; k < depth; k++, u += PANEL) {
        vf w[PANEL / CK_LANES];
#pragma clang loop unroll(full)
        for (int j = 0; j < vectors; j++) w[j] = CK_LOAD(u + j * CK_LANES);
#pragma clang loop unroll(full)
        for (int i = 0; i < rows; i++) {
            const vf x = CK_SPLAT(v[i * DEPTH + k]);
#pragma clang loop unroll(full)
            for (int j = 0; j < vectors; j++) sum[i][j] += x * w[j];
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < vectors; j++) {
            float *into = sums + i * stride + j * CK_LANES;
            CK_STORE(into, adds ? CK_LOAD(into) + sum[i][j] : sum[i][j]);
        }
}

CK_INLINE void products_of(
    const int most, const int vectors, const float *v, const float *u, long depth, float *sums, long stride, long count, int adds) {
    for (long t = 0; t < count;) {
        // The last rows are shared out evenly: a row alone would wait for its own sums.
        const long left = count - t;
        long rows = left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left;
        if (rows > 6 && rows < most) rows = 6;
        const float *a = v + t * DEPTH;
        float *c = sums + t * stride;
        switch (rows) {
        case 12: product(most, vectors, a, u, depth, c, stride, adds); break;
        case 6: product(6, vectors, a, u, depth, c, stride, adds); break;
        case 5: product(5, vectors, a, u, depth, c, stride, adds); break;
        case 4: product(4, vectors, a, u, depth, c, stride, adds); break;
        case 3: product(3, vectors, a, u, depth, c, stride, adds); break;
        case 2: product(2, vectors, a, u, depth, c, stride, adds); break;
        default: product(1, vectors, a, u, depth, c, stride, adds); break;
        }
        t += rows;
    }
}

CK_CLONES static void block_products(
    const float *v, const float *u, long depth, float *sums, long stride, long rows, long outputs, int adds, int wide) {
    for (long o = 0; o < outputs; o += PANEL, u += PANEL * DEPTH, sums += PANEL) {
        const long vectors = outputs - o >= PANEL ? PANEL / CK_LANES : (outputs - o + CK_LANES - 1) / CK_LANES;
        if (!wide) {
            // Sixteen registers of eight values hold the sums of a sixteenth column at a time.
            for (long j = 0; j < vectors; j++)
                products_of(6, 1, v, u + j * CK_LANES, depth, sums + j * CK_LANES, stride, rows, adds);
        } else {
            switch (vectors) {
            case 4: products_of(6, 4, v, u, depth, sums, stride, rows, adds); break;
            case 3: products_of(6, 3, v, u, depth, sums, stride, rows, adds); break;
            case 2: products_of(6, 2, v, u, depth, sums, stride, rows, adds); break;
            default: products_of(12, 1, v, u, depth, sums, stride, rows, adds); break;
            }
        }
    }
}

// Whether a register holds sixteen values and there are thirty-two of them.
static int has_wide_registers(void) {
#if defined(__x86_64__) && defined(__linux__) && !defined(CK_ONE_VERSION)
    static int known = -1;
    if (known < 0) {
        __builtin_cpu_init();
        known = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl");
    }
    return known;
#else
    return 0;
#endif
}

void ck_block_products(
    const float *v, const float *u, long depth, float *sums, long stride, long rows, long outputs, int adds) {
    block_products(v, u, depth, sums, stride, rows, outputs, adds, has_wide_registers());
}
