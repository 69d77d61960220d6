"""How fast a preloaded queue is drained, and what that costs: ours, the peers, and pgbench running our own statement."""
import time
from statistics import median

import statement
from processes import ChildFailed
from usage import Usage, commits


def run(engine, server, setting, jobs):
    """One drain of a fresh database; a dictionary of figures."""
    database = engine.fresh(server, "drain", jobs)
    server.leave(database)
    worker = engine.start(server, database, "worker", handler="count", jobs=jobs, setting=setting)
    try:
        before = Usage(server, database, worker.process.pid)
        started = worker.ask("go", "started")["started"]
        worker.wait("handled", 240)
        # Handlers that returned count for nothing: the end is when the last job is durably done.
        asked, deadline = 0, time.monotonic() + 60
        while True:
            ended = time.time_ns()
            asked += 1
            done = int(server.one(database, engine.terminal))
            if done >= jobs:
                break
            if time.monotonic() > deadline:
                raise ChildFailed(f"{done:,} of {jobs:,} jobs durably done a minute after the last handler returned")
            time.sleep(0.005)
        after = Usage(server, database, worker.process.pid)
    finally:
        worker.finish()
        server.leave(database)
    time.sleep(0.1)  # Sessions that have ended hand in their statistics.
    return {
        "seconds": (ended - started) / 1e9, "rate": jobs / ((ended - started) / 1e9), "done": done, "jobs": jobs,
        "server_us": (after.server_cpu - before.server_cpu) / jobs * 1e6,
        "client_us": (after.client_cpu - before.client_cpu) / jobs * 1e6,
        "wal": (after.wal - before.wal) / jobs,
        "commits": max(0, commits(server, database) - before.commits - asked) / jobs,
    }


def middle(runs):
    """The median of each figure, and every rate."""
    found = {key: median(run[key] for run in runs) for key in runs[0]}
    return found | {"rates": [run["rate"] for run in runs]}


def measure(engines, server, repetitions, scale, progress, problems):
    """{(engine, setting): figures}, all engines in turn in every repetition. Ours has pgbench beside it, right before or after."""
    runs = {}
    failed = set()
    cells = [(engine, name) for engine in engines for name in ("default", "tuned")]
    for repetition in range(repetitions):
        for engine, name in cells:
            if (engine.name, name) in failed:
                continue
            jobs = max(50, int(engine.jobs[name] * scale))
            try:
                found = run(engine, server, getattr(engine, name), jobs)
                runs.setdefault((engine.name, name), []).append(found)
                progress(f"drain {repetition + 1}/{repetitions} {engine.name} {name}: {found['rate']:,.0f} jobs/s")
                if engine.ours and name == "tuned":
                    for clients in statement.CLIENTS:
                        bare = statement.run(engine, server, jobs, clients)
                        runs.setdefault(("pgbench", clients), []).append(bare)
                        progress(f"drain {repetition + 1}/{repetitions} pgbench ({clients}): {bare['rate']:,.0f} jobs/s")
            except Exception as error:  # A peer's failure is a result, not the end of the run.
                failed.add((engine.name, name))
                problems.append(f"drain, {engine.name} ({name}): {error}")
                progress(problems[-1])
    return {key: middle(found) for key, found in runs.items()}
