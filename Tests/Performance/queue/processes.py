"""Processes that the bench starts: each ends with it, whatever happens to it, and their CPU time is read from /proc."""
import atexit
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import time

from lines import JSONLines

TICK = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None)
_started = []


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end(process, patience=5):
    """SIGTERM (a stopped process is woken for it), then SIGKILL; returns when the process is gone."""
    if process.poll() is None:
        # PostgreSQL's immediate shutdown is SIGQUIT, SIGINT its fast one; SIGINT does for all that we start.
        for number in (signal.SIGINT, signal.SIGCONT):
            process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in _started:
        _started.remove(process)


@atexit.register
def end_all():
    for process in reversed(list(_started)):
        end(process, 2)


class ChildFailed(Exception):
    """A process that ended, or said nothing for too long; its last words are the message."""


class Child:
    """A process of ours. With `pipes` it is spoken to in lines."""

    def __init__(self, command, pipes=False, log=None, cwd=None, env=None, **account):
        self.errors = open(log, "w") if log else tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self.errors, stderr=self.errors, text=pipes or None, cwd=cwd, env=env,
            preexec_fn=_die_with_parent, **account)
        _started.append(self.process)

    def words(self):
        self.errors.flush()
        try:
            self.errors.seek(0)
            lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        except (OSError, ValueError):
            lines = []
        return lines[-1] if lines else f"ended with status {self.process.poll()} and said nothing"


class Speaker(Child):
    """A process that answers in lines of JSON; what else it prints is passed over."""

    def __init__(self, command, **more):
        super().__init__(command, pipes=True, **more)
        self.lines = JSONLines(self.process.stdout)
        self.kept = []

    def tell(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise ChildFailed(self.words()) from None

    def next(self, limit):
        """The next line of JSON, whatever it says; None when the time is over."""
        try:
            return self.lines.next(limit)
        except EOFError:
            self.process.wait()
            raise ChildFailed(self.words()) from None

    def wait(self, key, limit=60):
        """The next line that has `key`; others are kept for later."""
        for i, said in enumerate(self.kept):
            if key in said:
                return self.kept.pop(i)
        deadline = time.monotonic() + limit
        while (said := self.next(max(0, deadline - time.monotonic()))) is not None:
            if key in said:
                return said
            self.kept.append(said)
        raise ChildFailed(f"no \"{key}\" within {limit} s" + (f"; {self.words()}" if self.process.poll() is not None else ""))

    def ask(self, line, key, limit=60):
        self.tell(line)
        return self.wait(key, limit)

    def signal(self, number):
        self.process.send_signal(number)

    def finish(self, limit=30):
        """Asks it to stop and waits until it has."""
        if self.process.poll() is None:
            try:
                self.tell("stop")
                self.process.stdin.close()
                deadline = time.monotonic() + limit
                while self.process.poll() is None and time.monotonic() < deadline:
                    # Its last lines must not fill the pipe.
                    if select.select([self.process.stdout], [], [], 0.05)[0] and not os.read(self.process.stdout.fileno(), 1 << 16):
                        self.process.wait(5)
            except (ChildFailed, OSError, subprocess.TimeoutExpired):
                pass
        end(self.process, 1)


def _times(pid):
    """(parent, CPU seconds of the process, of the children it has waited for)"""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK, (int(fields[13]) + int(fields[14])) / TICK


def cpu_seconds(pid):
    """CPU time of a process and of all its children, those that have ended too."""
    while True:
        _, own, before = _times(pid)
        total = own + before
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != pid:
                try:
                    parent, own, reaped = _times(name)
                except OSError:
                    continue
                if parent == pid:
                    total += own + reaped
        # A child that was waited for meanwhile is in neither sum.
        if _times(pid)[2] == before:
            return total
