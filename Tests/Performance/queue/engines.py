"""The engines side by side: what to install, with which settings they run, how their durable results are counted."""
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from processes import Speaker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
VENV = ROOT / ".build" / "queue-peers"


@dataclass
class Engine:
    name: str
    requirements: list  # for pip, exact versions; none: ours
    adapter: str  # file in adapters/
    terminal: str  # SQL: how many jobs are durably done
    accepted: str  # SQL: how many successes have been recorded
    history: str  # what is kept of a finished job
    default: dict  # settings of a worker that nobody tuned: the library's defaults, spelled out where it has none
    tuned: dict
    quick: dict  # settings for pick-up latency
    zombie: dict  # settings with short recovery
    jobs: dict  # drained jobs, by setting
    rescue: dict  # default settings for the SIGKILL test
    rescue_documented: str  # what the documentation promises
    rescue_measured: bool = True  # false: the documented time is beyond a minute
    zombie_sql: str = ""  # SQL that shortens recovery, where it is not a setting of the worker
    pause: str = ""  # SQL that keeps workers from taking jobs, where the engine has that, and SQL that lets them again
    resume: str = ""
    leader: dict | None = None  # settings of a third process that leads, where the engine has leaders
    problem: str = ""  # why it cannot run

    @property
    def ours(self):
        return not self.requirements

    def start(self, server, database, mode, **options):
        """A process of this engine in a mode; it has said that it is ready, where the mode has that."""
        options = {"dsn": server.url(database)} | options
        program = [self.binary] if self.ours else [VENV / "bin" / "python", "-W", "ignore", HERE / "adapters" / self.adapter]
        process = Speaker([*program, mode, json.dumps(options)], cwd="/")
        if mode != "setup":
            process.wait("ready", 60)
        return process

    def install(self, server):
        """A database with the engine's schema, to copy from."""
        database = f"template_{self.key}"
        server.create(database)
        process = self.start(server, database, "setup")
        process.wait("installed", 120)
        process.finish()
        server.leave(database)

    @property
    def key(self):
        return self.adapter.removeprefix("peer_").removesuffix(".py")

    def fresh(self, server, name, jobs=0):
        """A fresh database of this engine with so many jobs in it.

        The checkpoint comes before the jobs: the full-page images that follow one are written by the filling, which is the state of a
        server that has been running for a while.
        """
        database = f"{name}_{self.key}"
        server.drop(database)
        server.rows("postgres", f"create database {database} template template_{self.key}")
        server.rows("postgres", "checkpoint")
        if jobs:
            supply = self.start(server, database, "supply")
            supply.ask(str(jobs), "supplied", 300)
            supply.finish()
        server.rows(database, "vacuum analyze")
        return database


def pip(*arguments):
    return subprocess.run(
        [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True)


def last_line(done):
    lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"status {done.returncode}"])[0].strip()


def install_peers(engines, progress):
    """Into one virtual environment; what cannot be had is noted with the engine."""
    if not (VENV / "bin" / "python").exists():
        VENV.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
        if made.returncode != 0:
            for engine in engines:
                if not engine.ours:
                    engine.problem = f"no virtual environment: {last_line(made)}"
            return
    for engine in engines:
        if engine.ours:
            continue
        mark = VENV / ("have-" + "-".join(word.partition("[")[0].replace("==", "-") for word in engine.requirements))
        if mark.exists():
            continue
        progress(f"pip install {' '.join(engine.requirements)}")
        done = pip("install", "-q", *engine.requirements)
        if done.returncode == 0:
            mark.touch()
        else:
            engine.problem = f"pip install: {last_line(done)}"


def find_ours(engine, build):
    engine.binary = build / "QueueBench"
    if not engine.binary.exists():
        engine.problem = f"{engine.binary} is not there: swift build -c release"


def all_engines():
    ours = Engine(
        name="Foretaste", requirements=[], adapter="ours",
        terminal="select count(*) from queue.done", accepted="select count(*) from queue.done",
        history="arguments and result in queue.done",
        default={"concurrency": 100}, tuned={"concurrency": 1000}, quick={"concurrency": 10}, zombie={"concurrency": 500}, zombie_sql="update queue.queue set worker_ttl = '4 seconds' where name = 'bench'",
        jobs={"default": 60_000, "tuned": 600_000}, rescue={"concurrency": 10}, pause="select queue.pause('bench')",
        resume="select queue.resume('bench')",
        rescue_documented="3 s (the session is gone), 10 s (the lease runs out)")
    pgqueuer = Engine(
        name="PgQueuer", requirements=["pgqueuer[asyncpg]==1.6.0"], adapter="peer_pgqueuer.py",
        terminal="select count(*) from pgqueuer_log where status = 'successful'",
        accepted="select count(*) from pgqueuer_log where status = 'successful'",
        history="the row is deleted; three log rows without the payload",
        default={}, tuned={"batch_size": 500}, quick={},
        zombie={"heartbeat_timeout": 2, "dequeue_timeout": 1}, jobs={"default": 8_000, "tuned": 20_000}, rescue={},
        rescue_documented="heartbeat_timeout 30 s, and up to dequeue_timeout 30 s until a worker looks")
    awa = Engine(
        name="awa", requirements=["awa-pg==0.6.9", "awa-cli==0.6.9"], adapter="peer_awa.py",
        terminal="select coalesce((select sum(completed_count) from awa.receipt_completion_batches), 0)"
        " + (select count(*) from awa.done_entries where state = 'completed')"
        " + coalesce((select sum(pruned_completed_count) from awa.queue_terminal_rollups), 0)",
        accepted="select coalesce((select sum(completed_count) from awa.receipt_completion_batches), 0)"
        " + (select count(*) from awa.done_entries where state = 'completed')"
        " + coalesce((select sum(pruned_completed_count) from awa.queue_terminal_rollups), 0)",
        history="in its ring until the slot rotates away (seconds), then a counter",
        default={"workers": 50}, tuned={"workers": 512, "max_connections": 20}, quick={"workers": 50},
        zombie={
            "workers": 50, "heartbeat_interval_ms": 500, "heartbeat_staleness_ms": 2000, "heartbeat_rescue_interval_ms": 500,
            "leader_election_interval_ms": 500},
        leader={
            "queue": "other", "heartbeat_interval_ms": 500, "heartbeat_staleness_ms": 2000, "heartbeat_rescue_interval_ms": 500,
            "leader_election_interval_ms": 500},
        jobs={"default": 8_000, "tuned": 12_000}, rescue={"workers": 50}, rescue_measured=False,
        rescue_documented="heartbeat stale after about 90 s, looked for every 30 s")
    procrastinate = Engine(
        name="Procrastinate", requirements=["procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9"], adapter="peer_procrastinate.py",
        terminal="select count(*) from procrastinate_jobs where status = 'succeeded'",
        accepted="select count(*) from procrastinate_jobs where status = 'succeeded'",
        history="the row stays, with three events",
        default={}, tuned={"concurrency": 100, "listen_notify": False}, quick={"concurrency": 20},
        zombie={"concurrency": 50, "update_heartbeat_interval": 0.5, "stalled_worker_timeout": 2},
        jobs={"default": 300, "tuned": 500}, rescue={"concurrency": 10}, rescue_measured=False,
        rescue_documented="never by itself: a periodic task of the user retries stalled jobs (stalled after 30 s)")
    absurd = Engine(
        name="Absurd", requirements=["absurd-sdk==0.5.1", "absurdctl==0.5.1"], adapter="peer_absurd.py",
        terminal="select count(*) from absurd.t_bench where state = 'completed'",
        accepted="select count(*) from absurd.t_bench where state = 'completed'",
        history="task and run rows stay",
        default={}, tuned={"concurrency": 500, "batch_size": 500}, quick={"concurrency": 20},
        zombie={"concurrency": 50, "claim_timeout": 3}, jobs={"default": 500, "tuned": 1_000}, rescue={"concurrency": 10},
        rescue_measured=False, rescue_documented="claim_timeout 120 s")
    return [ours, pgqueuer, awa, procrastinate, absurd]


def described(setting):
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "as installed"
