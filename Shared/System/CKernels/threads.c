// Data-parallel loops. A caller puts its loop on a list, wakes the workers and takes indices itself until none are left; workers help
// whichever loop on the list still has indices. A caller can always finish its own loop alone, so any number of callers at once is safe.
// Idle workers watch for work for some microseconds before they sleep: the loops of one forward pass follow each other closely.
#if defined(__linux__)
#define _GNU_SOURCE
#include <sched.h>
#endif
#include "CKernels.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct loop {
    struct loop *next;
    void *context;
    ck_loop_body body;
    long count;
    atomic_long taken;
    atomic_long helpers;  // workers that may still touch this loop
} loop;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static loop *loops;
static atomic_long published;  // how many loops were ever put on the list; idle workers watch it
static atomic_long wanted;     // threads that a loop may use, the caller included; 0 = not chosen yet
static long started;           // workers that exist
static long sleeping;
static __thread int inside;

static long default_count(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? online : 1;
}

long ck_thread_count(void) {
    long count = atomic_load_explicit(&wanted, memory_order_relaxed);
    if (count == 0) {
        long none = 0;
        count = default_count();
        if (!atomic_compare_exchange_strong(&wanted, &none, count)) count = none;
    }
    return count;
}

void ck_set_thread_count(long count) { atomic_store(&wanted, count < 1 ? 1 : count); }
int ck_inside_loop(void) { return inside; }

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_indices(loop *l) {
    for (;;) {
        long index = atomic_fetch_add_explicit(&l->taken, 1, memory_order_relaxed);
        if (index >= l->count) return;
        l->body(l->context, index);
    }
}

static loop *open_loop(void) {
    for (loop *l = loops; l; l = l->next)
        if (atomic_load_explicit(&l->taken, memory_order_relaxed) < l->count) return l;
    return NULL;
}

static void *worker(void *argument) {
    long number = (long)argument;  // 1, 2, …: thread 0 is the caller
    inside = 1;
    pthread_mutex_lock(&lock);
    for (;;) {
        loop *l = number < ck_thread_count() ? open_loop() : NULL;
        if (l) {
            atomic_fetch_add(&l->helpers, 1);
            pthread_mutex_unlock(&lock);
            take_indices(l);
            pthread_mutex_lock(&lock);
            // Under the lock: the caller frees the loop only after it has seen zero helpers with the lock held.
            if (atomic_fetch_sub(&l->helpers, 1) == 1) pthread_cond_broadcast(&finished);
            continue;
        }
        long seen = atomic_load(&published);
        pthread_mutex_unlock(&lock);
        int woken = 0;
        if (number < ck_thread_count())
            for (int spin = 0; spin < 2000 && !woken; spin++) {
                pause_briefly();
                woken = atomic_load_explicit(&published, memory_order_relaxed) != seen;
            }
        pthread_mutex_lock(&lock);
        if (atomic_load(&published) != seen) continue;
        sleeping++;
        pthread_cond_wait(&work, &lock);
        sleeping--;
    }
    return NULL;
}

static int start_thread(void *(*entry)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, (size_t)64 << 20);  // address space only: deep graphs recurse
    int failure = pthread_create(&thread, &attributes, entry, argument);
    pthread_attr_destroy(&attributes);
    return failure;
}

void ck_parallel_for(long count, void *context, ck_loop_body body) {
    if (inside || count <= 1 || ck_thread_count() == 1) {
        int outer = inside;
        // A single index is not a loop: what it calls may still spread over the threads.
        if (count > 1) inside = 1;
        for (long i = 0; i < count; i++) body(context, i);
        inside = outer;
        return;
    }
    loop l = {.context = context, .body = body, .count = count};
    atomic_init(&l.taken, 0);
    atomic_init(&l.helpers, 0);
    pthread_mutex_lock(&lock);
    while (started < ck_thread_count() - 1) {
        if (start_thread(worker, (void *)(started + 1)) != 0) break;
        started++;
    }
    loop **end = &loops;
    while (*end) end = &(*end)->next;
    *end = &l;
    atomic_fetch_add(&published, 1);
    if (sleeping > 0) pthread_cond_broadcast(&work);
    pthread_mutex_unlock(&lock);

    inside = 1;
    take_indices(&l);
    inside = 0;
    for (int spin = 0; spin < 2000 && atomic_load_explicit(&l.helpers, memory_order_relaxed) > 0; spin++) pause_briefly();

    pthread_mutex_lock(&lock);
    loop **place = &loops;
    while (*place != &l) place = &(*place)->next;
    *place = l.next;
    while (atomic_load(&l.helpers) > 0) pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
}

typedef struct {
    void *context;
    ck_loop_body body;
} spawned;

static void *run_spawned(void *argument) {
    spawned s = *(spawned *)argument;
    free(argument);
    s.body(s.context, 0);
    return NULL;
}

int ck_spawn(void *context, ck_loop_body body) {
    spawned *s = malloc(sizeof *s);
    if (!s) return 12;  // ENOMEM
    *s = (spawned){context, body};
    int failure = start_thread(run_spawned, s);
    if (failure) free(s);
    return failure;
}
