#define _GNU_SOURCE
#include <dlfcn.h>

// OpenBLAS starts a thread for every core when it is loaded, before main, and each of them watches for work for some thirty milliseconds
// before it sleeps. We call OpenBLAS from threads of our own, on one thread each (see BLAS.swift), so its threads would only take the cores
// from ours at the start of every process. They are ended before they have begun: with one thread wanted, OpenBLAS never asks for them.
// A BLAS without these functions has no such threads. (OPENBLAS_NUM_THREADS=1 would do it too, but has to be there before the process is.)
__attribute__((constructor)) static void end_blas_threads(void) {
    void (*want)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    int (*end)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "blas_thread_shutdown_");
    if (!want || !end) return;
    want(1);
    end();
}
