"""What a process costs that has nothing to do: CPU of its own and of its sessions' server processes, and statements a second.

All are idle at once: a worker of each engine in a database of its own, and our four services under `foretaste up` in another. The server
logs their statements, which are counted by database and application.
"""
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import Child, ChildFailed, end

SETTLE = 8
#: As the ready file of `foretaste up` and their sessions call them.
SERVICES = ("ingest", "reward-trainer", "scorer", "generator-tuner")


@dataclass
class Subject:
    """A process that is looked at, and whose its sessions are: all of a database, or those of an application in it."""

    pid: int
    database: str
    application: str = ""

    def owns(self, database, application):
        return database == self.database and (
            not self.application or application == self.application or application.startswith(self.application + " "))


def nanoseconds(pid):
    """CPU time of a process's threads, to the nanosecond."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    except OSError:
        pass  # A thread or session that has just ended.
    return total


def sessions(server, subject):
    rows = server.rows("postgres", "select pid, datname, application_name from pg_stat_activity where datname is not null")
    return [int(pid) for pid, database, application in rows if subject.owns(database, application)]


def statements(server, subject, offset):
    """A subject's logged statements beyond a place in the log."""
    found = 0
    with open(server.folder / "log", errors="replace") as file:
        file.seek(offset)
        for line in file:
            database, _, rest = line.partition("|")
            application, _, rest = rest.partition("|")
            found += rest.startswith(("LOG:  statement:", "LOG:  execute")) and subject.owns(database, application)
    return found


def watch(server, subjects, seconds):
    """{name: figures} of processes that idle for so long; one that has ended meanwhile is left out."""
    offset = (server.folder / "log").stat().st_size
    before = {
        name: (nanoseconds(subject.pid), {pid: nanoseconds(pid) for pid in sessions(server, subject)})
        for name, subject in subjects.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took, found = time.monotonic() - began, {}
    for name, subject in subjects.items():
        client, backends = before[name]
        if (now := nanoseconds(subject.pid)) >= client:
            server_ns = sum(nanoseconds(pid) - backends.get(pid, 0) for pid in sessions(server, subject))
            found[name] = {
                "client": (now - client) / took / 1e9, "server": server_ns / took / 1e9,
                "statements": statements(server, subject, offset) / took, "sessions": len(backends)}
    return found


def database(server, name):
    server.rows("postgres", f"alter database {name} set log_statement = 'all'")
    server.leave(name)
    return name


class Services:
    """Our four services under `foretaste up`, over the run's server."""

    def __init__(self, build, server, limit=120):
        program = build / "foretaste"
        if not program.exists():
            raise ChildFailed(f"{program} is not there: swift build -c release")
        server.create("services")
        self.folder = tempfile.TemporaryDirectory(prefix="foretaste-idle-")
        ready = Path(self.folder.name) / "ready.json"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("FORETASTE_", "PG"))}
        environment["DATABASE_URL"] = server.url(database(server, "services"))
        self.up = Child(
            [program, "up", "--data", Path(self.folder.name) / "data", "--ready-file", ready], cwd="/", env=environment)
        deadline = time.monotonic() + limit
        while not ready.exists():
            if self.up.process.poll() is not None or time.monotonic() > deadline:
                words = self.up.words()
                self.end()
                raise ChildFailed(f"foretaste up: {words}")
            time.sleep(0.1)
        processes = json.loads(ready.read_text())["processes"]
        self.subjects = {f"our {name} service": Subject(processes[name], "services", name) for name in SERVICES}
        self.subjects["our foretaste up"] = Subject(self.up.process.pid, "services", "foretaste up")

    def end(self):
        end(self.up.process, 30)
        self.folder.cleanup()


def measure(engines, server, build, seconds, progress, problems):
    """{engine or service: figures}"""
    subjects, workers, services = {}, [], None
    try:
        for engine in engines:
            try:
                name = database(server, engine.fresh(server, "idle"))
                worker = engine.start(server, name, "worker", handler="count", setting=engine.rescue)
                workers.append(worker)
                subjects[engine.name] = Subject(worker.process.pid, name)
                worker.ask("go", "started")
            except Exception as error:
                problems.append(f"idle, {engine.name}: {error}")
                progress(problems[-1])
        if any(engine.ours for engine in engines):
            try:
                services = Services(build, server)
                subjects |= services.subjects
            except Exception as error:
                problems.append(f"idle services: {error}")
                progress(problems[-1])
        time.sleep(SETTLE)
        found = watch(server, subjects, seconds)
        for name in subjects:
            if figures := found.get(name):
                progress(f"idle {name}: {100 * figures['client']:.2f} % CPU, {figures['statements']:.1f} statements/s")
            else:
                problems.append(f"idle, {name}: it has ended")
        return found
    finally:
        for worker in workers:
            worker.finish(5)
        if services:
            services.end()
