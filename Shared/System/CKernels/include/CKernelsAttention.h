// Tiled attention of one head of one batch entry (attention_forward.c, attention_backward.c). Rows of q, k, v, y have strides, so that heads lie
// side by side in a row. All of the work is done on the calling thread.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/// y[r, c] = x[r, c] for c < width, zero behind that up to `columns`.
void ck_copy_rows(const float *x, long stride, long rows, long width, float *y, long columns);

/// One head, or some of its queries: y = softmax(scale * q kᵀ) v.
typedef struct {
    const float *q, *k, *v;
    /// [queries, width]; rows as far apart as those of q.
    float *y;
    /// log2 of the sum of exponentials of each query, in the unit of the kernel that is used here (null if no backward pass follows).
    float *logs;
    long queries, keys, width;
    /// keyStride and valueStride must leave (width rounded up to 8) readable values in every row of v.
    long queryStride, keyStride, valueStride;
    float scale;
} ck_attention;

/// How many queries one call of ck_attention_forward should have at most.
long ck_attention_query_tile(void);
/// How many floats of scratch ck_attention_forward needs.
long ck_attention_forward_scratch(long queries, long width);
void ck_attention_forward(const ck_attention *head, float *scratch);

/// The gradients of one head, of all queries with respect to a range of keys: k, v, dk and dv stand at the first of them.
typedef struct {
    const float *q, *k, *v, *y, *dy;
    /// As ck_attention_forward left them.
    const float *logs;
    /// Each may be null. dq is what these keys contribute; all three are written, not added to.
    float *dq, *dk, *dv;
    long queries, keys, width;
    /// Of q, y, dy and dq; of k, v, dk and dv.
    long queryStride, keyStride;
    float scale;
} ck_attention_gradient;

/// How many floats of scratch ck_attention_backward needs; only the sizes are looked at.
long ck_attention_backward_scratch(const ck_attention_gradient *head);
void ck_attention_backward(const ck_attention_gradient *head, float *scratch);

#ifdef __cplusplus
}
#endif
