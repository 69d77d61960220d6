#define _GNU_SOURCE
#include "CSpawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Steps of the child, in order; an index goes through the pipe with errno.
static const char *const steps[] = {"sigprocmask", "setsid", "dup2", "setgroups", "setgid", "setuid", "prctl", "chdir", "execve"};
enum { MASK, SESSION, DUPLICATE, GROUPS, GROUP, USER, DEATH, DIRECTORY, EXEC };

struct report { int step; int code; };

static _Noreturn void fail(int channel, int step) {
    struct report report = {step, errno};
    ssize_t written = write(channel, &report, sizeof report);
    (void)written;
    _exit(127);
}

// Between fork and exec only async-signal-safe calls: other threads' locks are held for ever in the child.
static _Noreturn void become(const struct foretaste_spawn *request, const int *streams, int channel, pid_t parent) {
    // Ignored signals and the mask survive exec; the child starts with neither.
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) != 0) fail(channel, MASK);
    if (request->new_session && setsid() < 0) fail(channel, SESSION);
    for (int target = 0; target < 3; target++)
        if (dup2(streams[target], target) < 0) fail(channel, DUPLICATE);
    // What other code opened without O_CLOEXEC is not the child's. A kernel before 5.11 says no; then it inherits.
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    if (request->changes_user) {
        if (setgroups(0, NULL) != 0) fail(channel, GROUPS);
        if (setgid(request->group) != 0) fail(channel, GROUP);
        if (setuid(request->user) != 0) fail(channel, USER);
    }
    // After setuid, which clears it.
    if (request->death_signal) {
        if (prctl(PR_SET_PDEATHSIG, (unsigned long)request->death_signal, 0, 0, 0) != 0) fail(channel, DEATH);
        // The parent may have died before the call.
        if (getppid() != parent) _exit(127);
    }
    if (request->directory && chdir(request->directory) != 0) fail(channel, DIRECTORY);
    execve(request->path, request->arguments, request->environment);
    fail(channel, EXEC);
}

// A copy above 2, close-on-exec, so that no dup2 in the child overwrites what the next one needs.
static int lifted(int descriptor, int null_device) {
    return fcntl(descriptor < 0 ? null_device : descriptor, F_DUPFD_CLOEXEC, 3);
}

pid_t foretaste_spawn(const struct foretaste_spawn *request, const char **failed_step) {
    *failed_step = "pipe2";
    int channel[2];
    if (pipe2(channel, O_CLOEXEC) != 0) return -1;
    *failed_step = "open /dev/null";
    int null_device = open("/dev/null", O_RDWR | O_CLOEXEC);
    int streams[3] = {-1, -1, -1};
    int writer = -1;
    pid_t child = -1;
    if (null_device < 0) goto done;
    *failed_step = "fcntl";
    streams[0] = lifted(request->standard_input, null_device);
    streams[1] = lifted(request->standard_output, null_device);
    streams[2] = lifted(request->standard_error, null_device);
    writer = lifted(channel[1], null_device);
    if (streams[0] < 0 || streams[1] < 0 || streams[2] < 0 || writer < 0) goto done;
    *failed_step = "fork";
    pid_t parent = getpid();
    // Signals wait, so that no handler of the parent's runs in the child.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    child = fork();
    if (child == 0) become(request, streams, writer, parent);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (child < 0) goto done;
    close(writer);
    close(channel[1]);
    writer = channel[1] = -1;
    struct report report;
    ssize_t count;
    do count = read(channel[0], &report, sizeof report);
    while (count < 0 && errno == EINTR);
    if (count == (ssize_t)sizeof report) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
        *failed_step = steps[report.step];
        child = -1;
        errno = report.code;
    }
done:;
    int code = errno;
    for (int index = 0; index < 3; index++)
        if (streams[index] >= 0) close(streams[index]);
    if (writer >= 0) close(writer);
    if (channel[1] >= 0) close(channel[1]);
    if (null_device >= 0) close(null_device);
    close(channel[0]);
    errno = code;
    return child;
}

void foretaste_name_thread(const char *name) {
    pthread_setname_np(pthread_self(), name);
}

int foretaste_exit_status(int wait_status) {
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}
