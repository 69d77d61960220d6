"""pgbench that runs our turn, and nothing else: what the database could do if the worker around the statement cost nothing."""
import re
import subprocess

from processes import ChildFailed
from usage import Usage

BATCH = 500
#: A worker of ours has two turns under way, so two are the same; one shows what a single session can do.
CLIENTS = (2, 1)


def run(engine, server, jobs, clients):
    """Drains a fresh database of ours; the same figures as a worker's drain."""
    database = engine.fresh(server, "statement", jobs)
    worker = server.one(database, "select queue.register_worker('pgbench', 'bench', 1, interval '1 hour')")
    script = server.folder / "turn.sql"
    # The worker's own statement; the arrays go from one turn into the next, which hands in what the one before it had claimed.
    script.write_text(subprocess.run([engine.binary, "print-turn"], capture_output=True, text=True, check=True).stdout)
    script.chmod(0o644)
    before = Usage(server, database, None)
    turns = -(-jobs // (BATCH * clients)) + 1
    done = subprocess.run(
        [server.bin / "pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(clients), "-t", str(turns), "-f", script,
         "-D", f"worker={worker}", "-D", f"batch={BATCH}", "-D", "places={0,0,0,0}", "-D", "ids={}", "-D", "tokens={}",
         server.url(database)], capture_output=True, text=True, cwd="/")
    rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
    if done.returncode != 0 or not rate:
        lines = done.stderr.strip().splitlines()
        raise ChildFailed("pgbench: " + next((line for line in lines if "ERROR" in line), lines[-1] if lines else "said nothing"))
    after = Usage(server, database, None)
    finished = int(server.one(database, engine.terminal))
    server.leave(database)
    if finished < jobs - 2 * BATCH * clients:
        raise ChildFailed(f"pgbench finished {finished:,} of {jobs:,} jobs")
    seconds = clients * turns / float(rate[1])
    return {
        "seconds": seconds, "rate": finished / seconds, "done": finished, "jobs": jobs,
        "server_us": (after.server_cpu - before.server_cpu) / finished * 1e6, "client_us": 0.0,
        "wal": (after.wal - before.wal) / finished, "commits": (after.commits - before.commits) / finished,
    }
