"""Processes that hold one work and do it when they are asked: ours (`BackboneBench serve`) and PyTorch's (`peer.py serve`)."""
import json
import os
import subprocess
import tempfile
from pathlib import Path

from lines import JSONLines

HERE = Path(__file__).resolve().parent


class SideFailed(Exception):
    """A process that could not do the work; its last words are the message."""


def environment(threads, folder):
    """OPENBLAS_CORETYPE and MKL's settings are left to the libraries; the number of threads is the same for all."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "MKL_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    return kept | {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "HF_HUB_OFFLINE": "1"}


class Side:
    """One process; every question is a line, every answer a line of JSON."""

    def __init__(self, command, threads, folder):
        self.errors = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env=environment(threads, folder))
        self.lines = JSONLines(self.process.stdout)

    def answer(self, limit=900):
        """The next line of JSON; whatever else the process prints is passed over."""
        try:
            said = self.lines.next(limit)
        except EOFError:
            raise SideFailed(self.last_words()) from None
        if said is None:
            self.close(kill=True)
            raise SideFailed(f"no answer within {limit} s")
        return said

    def ask(self, question, limit=900):
        try:
            self.process.stdin.write((question + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SideFailed(self.last_words()) from None
        return self.answer(limit)

    def last_words(self):
        self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return (lines or [f"ended with status {self.process.returncode} and said nothing"])[-1][:200]

    def close(self, kill=False):
        """Ends the process by closing its input; a process that does not listen is killed."""
        if self.process.poll() is None:
            if kill:
                self.process.kill()
            self.process.stdin.close()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Sides:
    """How to start either side, and what is known of the peer."""

    def __init__(self, build, python, folder, wants_peer):
        self.folder = folder
        self.binary = build / "BackboneBench"
        self.peer = [python, HERE / "peer.py"]
        self.versions, self.why = None, "left out by --no-peer"
        if wants_peer:
            self.find_peer()

    def find_peer(self):
        try:
            done = subprocess.run([str(p) for p in self.peer] + ["version"], capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                self.versions, self.why = json.loads(done.stdout.strip().splitlines()[-1]), ""
            else:
                self.why = (done.stderr.strip().splitlines() or ["no output"])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            self.why = str(error)

    def start(self, who, options, threads):
        """`who` is ours, tiles (ours in bfloat16x3), eager or compile. The process answers when it is ready: ask with `answer()`."""
        command = [self.binary] if who in ("ours", "tiles") else list(self.peer)
        command += ["serve", *options, "--threads", threads]
        command += {"compile": ["--compile", "yes"], "tiles": ["--precision", "bfloat16x3"]}.get(who, [])
        return Side(command, threads, self.folder)

    def model(self, name, make):
        """A folder with random weights, made once; the demo's generator is given as it is."""
        if not make:
            return name
        path = self.folder / name
        if not (path / "config.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([str(self.binary), "make", *make, str(path)], capture_output=True, text=True)
            if done.returncode != 0:
                raise SideFailed(done.stderr.strip())
        return path
