#ifndef PLAIN_MEMORY_H
#define PLAIN_MEMORY_H

#include <stddef.h>

void *ck_allocate(size_t bytes);
void ck_release(void *block, size_t bytes);
size_t ck_pooled_bytes(void);
void ck_trim(void);

#endif
