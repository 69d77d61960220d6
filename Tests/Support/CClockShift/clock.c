#define _GNU_SOURCE
#include "CClockShift.h"
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic long shift;

void foretaste_shift_clock(long seconds) { atomic_store(&shift, seconds); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += atomic_load(&shift);
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *answer) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (answer != NULL) *answer = now.tv_sec;
    return now.tv_sec;
}

static void step(int signal) { atomic_fetch_add(&shift, signal == SIGUSR1 ? 3600 : -3600); }

void foretaste_shift_clock_on_signals(void) {
    signal(SIGUSR1, step);
    signal(SIGUSR2, step);
}
