// Blocks are rounded up to a size class (an eighth of a power of two apart) and kept for the next tensor of that class: a training step
// asks for the same sizes again and again, and a fresh page from the system costs more than the arithmetic done on it. The largest blocks
// are traded: before one of a new size is asked of the system, idle ones of other sizes go back, so that a long clip's peak is what is in
// use at once and not the sum of every size's own peak.
#include "CKernels.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CLASSES = 64 * 8 };
static const size_t SMALLEST = 256;
// From here on the pages of a block cost little beside the arithmetic done on it.
static const size_t TRADED = (size_t)32 << 20;

typedef struct idle_block {
    struct idle_block *next;
} idle_block;

static struct {
    pthread_mutex_t lock;
    idle_block *first;
} shelves[CLASSES];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static size_t idle_bytes;
static size_t idle_limit;

static void prepare(void) {
    for (int c = 0; c < CLASSES; c++) pthread_mutex_init(&shelves[c].lock, NULL);
    // At most a quarter of the machine's memory lies idle here.
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    idle_limit = pages > 0 && page > 0 ? (size_t)pages / 4 * (size_t)page : (size_t)1 << 30;
}

static size_t round_up(size_t bytes, int *class_index) {
    if (bytes < SMALLEST) bytes = SMALLEST;
    int power = 63 - __builtin_clzll((unsigned long long)bytes);
    size_t step = ((size_t)1 << power) >> 3;
    size_t eighths = (bytes - ((size_t)1 << power) + step - 1) / step;
    if (eighths == 8) {
        power++;
        step <<= 1;
        eighths = 0;
    }
    *class_index = power * 8 + (int)eighths;
    return ((size_t)1 << power) + eighths * step;
}

// Large blocks ask for large pages: the system clears two megabytes at a fault instead of four kilobytes.
static void *fresh(size_t size) {
    enum { LARGE = 2 << 20 };
    void *memory = NULL;
    if (posix_memalign(&memory, size >= 4 * LARGE ? LARGE : 64, size) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    if (size >= 4 * LARGE) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

static size_t class_size(int c) {
    size_t power = (size_t)c / 8;
    return ((size_t)1 << power) + (size_t)(c % 8) * (((size_t)1 << power) >> 3);
}

// Takes one idle block off a shelf; NULL if there is none.
static void *take(int c) {
    pthread_mutex_lock(&shelves[c].lock);
    idle_block *block = shelves[c].first;
    if (block) shelves[c].first = block->next;
    pthread_mutex_unlock(&shelves[c].lock);
    if (block) __atomic_fetch_sub(&idle_bytes, class_size(c), __ATOMIC_RELAXED);
    return block;
}

// Gives idle large blocks back to the system, the largest first, until `size` bytes have gone.
static void trade(size_t size) {
    int last;
    round_up(TRADED, &last);
    size_t gone = 0;
    for (int c = CLASSES - 1; c >= last && gone < size; c--) {
        void *block;
        while (gone < size && (block = take(c))) {
            free(block);
            gone += class_size(c);
        }
    }
}

void *ck_allocate(size_t bytes) {
    pthread_once(&once, prepare);
    int c;
    size_t size = round_up(bytes, &c);
    void *block = take(c);
    if (block) return block;
    if (size >= TRADED) trade(size);
    void *memory = fresh(size);
    if (memory) return memory;
    ck_trim();
    return fresh(size);
}

void ck_release(void *memory, size_t bytes) {
    if (!memory) return;
    int c;
    size_t size = round_up(bytes, &c);
    if (__atomic_add_fetch(&idle_bytes, size, __ATOMIC_RELAXED) > idle_limit) {
        __atomic_fetch_sub(&idle_bytes, size, __ATOMIC_RELAXED);
        free(memory);
        return;
    }
    idle_block *block = memory;
    pthread_mutex_lock(&shelves[c].lock);
    block->next = shelves[c].first;
    shelves[c].first = block;
    pthread_mutex_unlock(&shelves[c].lock);
}

size_t ck_pooled_bytes(void) { return __atomic_load_n(&idle_bytes, __ATOMIC_RELAXED); }

void ck_trim(void) {
    pthread_once(&once, prepare);
    for (int c = 0; c < CLASSES; c++) {
        void *block;
        while ((block = take(c))) free(block);
    }
}
