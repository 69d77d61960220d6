#define _GNU_SOURCE
#include "CKernels.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// OpenBLAS picks its kernels when it is loaded, by the CPU's model number, and a build older than the CPU falls back to SSE kernels: a fifth
// of the speed. So where the CPU has AVX-512 or AVX2, name a core type that uses it and let the library choose again. Both functions are
// exported by every DYNAMIC_ARCH build; where they are missing (another BLAS, one built for one core) nothing happens. A user's own
// OPENBLAS_CORETYPE is respected.
void ck_prepare_blas(void) {
#if defined(__x86_64__)
    if (getenv("OPENBLAS_CORETYPE")) return;
    __builtin_cpu_init();
    const char *best = NULL;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl"))
        best = "SkylakeX";
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        best = "Haswell";
    if (!best) return;
    void (*quit)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "gotoblas_dynamic_quit");
    void (*init)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "gotoblas_dynamic_init");
    char *(*core)(void) = (char *(*)(void))dlsym(RTLD_DEFAULT, "openblas_get_corename");
    if (!quit || !init || !core) return;
    const char *now = core();
    // These know the CPU already, and at least as well.
    if (!strcasecmp(now, best) || !strcasecmp(now, "Cooperlake") || !strcasecmp(now, "SapphireRapids") || !strcasecmp(now, "Zen")) {
        if (strcasecmp(now, "Zen") || !strcmp(best, "Haswell")) return;
    }
    setenv("OPENBLAS_CORETYPE", best, 1);
    quit();
    init();
#endif
}

char *ck_describe_cpu(char *buffer, size_t size) {
    char model[128] = "unknown CPU", vendor[64] = "";
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file) {
        char line[512];
        int found = 0;
        while (found < 2 && fgets(line, sizeof line, file)) {
            char *value = strchr(line, ':');
            if (!value) continue;
            value += value[1] == ' ' ? 2 : 1;
            value[strcspn(value, "\n")] = 0;
            if (!strncmp(line, "vendor_id", 9)) snprintf(vendor, sizeof vendor, "%s ", value), found++;
            if (!strncmp(line, "model name", 10)) snprintf(model, sizeof model, "%s", value), found++;
        }
        fclose(file);
    }
    const char *vectors = "";
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) vectors = ", avx512";
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) vectors = ", avx2";
#elif defined(__aarch64__)
    vectors = ", neon";
#endif
    snprintf(buffer, size, "%s%s%s", vendor, model, vectors);
    return buffer;
}
