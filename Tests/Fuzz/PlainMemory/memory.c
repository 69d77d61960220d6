// Stands in for CKernels/memory.c under the sanitizers: no pool and no rounding up, so that they see where a tensor ends and when it is gone.
#include "PlainMemory.h"

#include <stdlib.h>

void *ck_allocate(size_t bytes) {
  void *memory = NULL;
  return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

void ck_release(void *block, size_t bytes) {
  (void)bytes;
  free(block);
}

size_t ck_pooled_bytes(void) { return 0; }
void ck_trim(void) {}
