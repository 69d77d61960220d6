"""pgbench that runs our turn, and nothing else: what the database could do if the worker around the statement cost nothing."""
import re
import subprocess

from processes import ChildFailed
from usage import Usage

BATCH = 500
CLIENTS = 2

#: The arrays go from one turn into the next: a turn hands in what the one before it had claimed.
TURN = """
select coalesce(array_agg(id) filter (where not fenced), '{}') ids, coalesce(array_agg(token) filter (where not fenced), '{}') tokens,
    array_fill(null::jsonb, array[count(*) filter (where not fenced)::int]) results, coalesce(max(seq), :low) low
from queue.turn(:worker, 'bench', 'noop', :batch, array[0, :low, 0, 0]::bigint[], :ids::bigint[], :tokens::bigint[], :results::jsonb[]) \\gset
""".strip().replace("\n", " ") + "\n"


def run(engine, server, jobs):
    """Drains a fresh database of ours; the same figures as a worker's drain."""
    database = engine.fresh(server, "statement", jobs)
    worker = server.one(database, "select queue.register_worker('pgbench', 'bench', 1, interval '1 hour')")
    script = server.folder / "turn.sql"
    script.write_text(TURN)
    script.chmod(0o644)
    before = Usage(server, database, None)
    turns = -(-jobs // (BATCH * CLIENTS)) + 1
    done = subprocess.run(
        [server.bin / "pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", str(CLIENTS), "-t", str(turns), "-f", script,
         "-D", f"worker={worker}", "-D", f"batch={BATCH}", "-D", "low=0", "-D", "ids={}", "-D", "tokens={}", "-D", "results={}",
         server.url(database)], capture_output=True, text=True, cwd="/")
    rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
    if done.returncode != 0 or not rate:
        raise ChildFailed(f"pgbench: {(done.stderr.strip().splitlines() or ['said nothing'])[-1]}")
    after = Usage(server, database, None)
    finished = int(server.one(database, engine.terminal))
    server.leave(database)
    if finished < jobs - 2 * BATCH * CLIENTS:
        raise ChildFailed(f"pgbench finished {finished:,} of {jobs:,} jobs")
    seconds = CLIENTS * turns / float(rate[1])
    return {
        "seconds": seconds, "rate": finished / seconds, "done": finished, "jobs": jobs,
        "server_us": (after.server_cpu - before.server_cpu) / finished * 1e6, "client_us": 0.0,
        "wal": (after.wal - before.wal) / finished, "commits": (after.commits - before.commits) / finished,
    }
