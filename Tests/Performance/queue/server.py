"""One PostgreSQL for all engines of a run: private, durable, in a temporary place, gone afterwards."""
import fcntl
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

from processes import Child, end

PREFIX = "foretaste-queue-"
SETTINGS = {
    "listen_addresses": "''", "max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min",
    "autovacuum_naptime": "10s", "jit": "off", "fsync": "on", "synchronous_commit": "on", "autovacuum": "on", "full_page_writes": "on",
    "log_line_prefix": "'%d|%a|'",
}


class QueryFailed(Exception):
    """psql's own words."""


def binaries():
    """Where the distribution's newest server is."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    if not found and (path := shutil.which("postgres")):
        found = [path]
    if not found:
        raise SystemExit("bench queue: there is no PostgreSQL server (Debian: apt install postgresql)")
    return Path(found[-1]).parent


def remove_leftovers():
    """Data of runs that were killed: whoever runs holds the lock of its folder."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        try:
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            continue


class Server:
    """The server; as root it runs as `postgres`, because it refuses root."""

    def __init__(self):
        self.bin = binaries()
        remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.lock = open(self.folder / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.account = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.child = None
        self.sessions = {}

    def start(self):
        made = subprocess.run(
            [self.bin / "initdb", "-D", self.folder / "data", "-U", "bench", "--auth=trust", "-E", "UTF8", "--no-locale"],
            cwd=self.folder, capture_output=True, text=True, **self.account)
        if made.returncode != 0:
            raise SystemExit(f"bench queue: initdb: {made.stderr.strip()}")
        settings = SETTINGS | {"unix_socket_directories": f"'{self.folder}'"}
        with open(self.folder / "data" / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        self.launch()

    def launch(self):
        """Starts the server over the data that is there."""
        self.child = Child([self.bin / "postgres", "-D", self.folder / "data"], cwd=self.folder, log=self.folder / "log", **self.account)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.version = self.one("postgres", "show server_version")
                return
            except QueryFailed:
                if time.monotonic() > deadline or self.child.process.poll() is not None:
                    raise SystemExit(f"bench queue: PostgreSQL does not start: {self.log()}") from None
                time.sleep(0.1)

    def crash(self):
        """An immediate shutdown: every session ends in the middle of what it does, and the next start recovers."""
        for session in self.sessions.values():
            end(session.process)
        self.sessions.clear()
        self.child.process.send_signal(signal.SIGQUIT)
        self.child.process.wait()

    def stop(self):
        for session in self.sessions.values():
            end(session.process)
        if self.child:
            end(self.child.process)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()

    def log(self):
        try:
            return "\n".join((self.folder / "log").read_text().splitlines()[-5:])
        except OSError:
            return "no log"

    def url(self, database):
        # The one form of a socket's URL that libpq, asyncpg and sqlx all take.
        return f"postgresql://bench@{quote(str(self.folder), safe='')}/{database}"

    # Queries, over one psql for each database.

    def session(self, database):
        session = self.sessions.get(database)
        if session is None or session.process.poll() is not None:
            session = self.sessions[database] = Session(self, database)
        return session

    def rows(self, database, sql):
        return self.session(database).rows(sql)

    def one(self, database, sql):
        rows = self.rows(database, sql)
        return rows[0][0] if rows else None

    def leave(self, database):
        """Ends the runner's own session, so that its statistics are counted and the database can be dropped."""
        if session := self.sessions.pop(database, None):
            session.close()

    def create(self, database):
        self.drop(database)
        self.rows("postgres", f"create database {database}")

    def drop(self, database):
        self.leave(database)
        self.rows("postgres", f"drop database if exists {database} with (force)")


class Session:
    """A psql that is asked one question after the other."""

    MARK = "~end~"

    def __init__(self, server, database):
        self.child = Child(
            [server.bin / "psql", "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", server.url(database)], pipes=True, cwd="/")
        self.process = self.child.process
        self.lock = threading.Lock()

    def rows(self, sql):
        with self.lock:
            return self.ask(sql)

    def ask(self, sql):
        try:
            self.process.stdin.write(f"{sql};\n\\echo {self.MARK}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # Its words come below.
        rows = []
        for line in self.process.stdout:
            if line.rstrip("\n") == self.MARK:
                return rows
            rows.append(line.rstrip("\n").split("\t"))
        self.process.wait()
        raise QueryFailed(self.child.words())

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            end(self.process)
