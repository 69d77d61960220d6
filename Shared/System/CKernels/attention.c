#include "CKernels.h"
#include <string.h>

void ck_copy_rows(const float *x, long stride, long rows, long width, float *y, long columns) {
    for (long r = 0; r < rows; r++, x += stride, y += columns) {
        memcpy(y, x, sizeof(float) * (size_t)width);
        if (columns > width) memset(y + width, 0, sizeof(float) * (size_t)(columns - width));
    }
}
