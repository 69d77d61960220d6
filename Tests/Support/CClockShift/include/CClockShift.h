// A wall clock that a test can step. The program that links this has its own clock_gettime, gettimeofday and time, which Foundation,
// dispatch and libpq find before libc's: the wall clock is shifted, the monotonic ones are not.
#ifndef CCLOCKSHIFT_H
#define CCLOCKSHIFT_H

// From now on the wall clock is so many seconds off. Safe in a signal handler.
void foretaste_shift_clock(long seconds);

// SIGUSR1 puts the clock an hour forward, SIGUSR2 an hour back, each from where it is.
void foretaste_shift_clock_on_signals(void);

#endif
