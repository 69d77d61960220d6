// Starting a child process: what posix_spawn cannot do (another user, a signal when the parent dies, a working directory).
#ifndef CSPAWN_H
#define CSPAWN_H

#include <sys/types.h>

struct foretaste_spawn {
    const char *path;             // the program; no search
    char *const *arguments;       // NULL-terminated, the program's name first
    char *const *environment;     // NULL-terminated
    const char *directory;        // NULL: stay
    int standard_input;           // -1: /dev/null
    int standard_output;          // -1: /dev/null
    int standard_error;           // -1: /dev/null
    int changes_user;             // 0: stay who we are
    uid_t user;
    gid_t group;
    int death_signal;             // 0: none; the signal the child gets when the THREAD that spawned it ends
    int new_session;              // 1: setsid, so that a terminal's Ctrl-C reaches the parent alone
};

// Returns the child's process id; or -1 with errno, and *failed_step naming what failed in the child ("execve", "setuid", …).
pid_t foretaste_spawn(const struct foretaste_spawn *request, const char **failed_step);

// Names the calling thread (at most 15 bytes), as top and gdb show it.
void foretaste_name_thread(const char *name);

// WIFEXITED and friends are macros: the exit status, or 128 + the signal that ended the process.
int foretaste_exit_status(int wait_status);

#endif
