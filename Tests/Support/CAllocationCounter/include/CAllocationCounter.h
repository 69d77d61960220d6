#ifndef C_ALLOCATION_COUNTER_H
#define C_ALLOCATION_COUNTER_H

#include <stddef.h>

/// Whether this program's malloc is counted: on glibc, and not under a sanitizer, which has an allocator of its own.
int allocation_counter_works(void);
/// Starts counting from zero.
void allocation_counter_start(void);
/// The largest number of bytes that were in use at once since the start, beyond what was in use then.
long allocation_counter_peak(void);

#endif
