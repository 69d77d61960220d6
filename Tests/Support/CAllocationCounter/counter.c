// Takes malloc's place in the program that links this, counts, and passes everything on to glibc. For test programs of their own only.
#include "CAllocationCounter.h"

#include <errno.h>
#include <stdatomic.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif

#if defined(__linux__) && !defined(UNDER_SANITIZER)
#include <malloc.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_long in_use, peak;

static void *taken(void *block) {
  if (block) {
    long now = atomic_fetch_add(&in_use, (long)malloc_usable_size(block)) + (long)malloc_usable_size(block);
    long before = atomic_load(&peak);
    while (now > before && !atomic_compare_exchange_weak(&peak, &before, now)) {
    }
  }
  return block;
}

static void given_back(void *block) {
  if (block) atomic_fetch_sub(&in_use, (long)malloc_usable_size(block));
}

void *malloc(size_t size) { return taken(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return taken(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }

int posix_memalign(void **place, size_t alignment, size_t size) {
  void *block = taken(__libc_memalign(alignment, size));
  if (!block) return ENOMEM;
  *place = block;
  return 0;
}

void *realloc(void *block, size_t size) {
  // The old block counts until the new one is there, as it does while its contents are copied.
  long old = block ? (long)malloc_usable_size(block) : 0;
  void *moved = __libc_realloc(block, size);
  if (!moved && size) return moved;
  taken(moved);
  atomic_fetch_sub(&in_use, old);
  return moved;
}

void free(void *block) {
  given_back(block);
  __libc_free(block);
}

int allocation_counter_works(void) { return 1; }
void allocation_counter_start(void) {
  atomic_store(&in_use, 0);
  atomic_store(&peak, 0);
}
long allocation_counter_peak(void) { return atomic_load(&peak); }

#else

int allocation_counter_works(void) { return 0; }
void allocation_counter_start(void) {}
long allocation_counter_peak(void) { return 0; }

#endif
