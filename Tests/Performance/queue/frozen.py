"""Workers that are frozen or killed.

Zombie: worker A takes jobs and is stopped (SIGSTOP); the engine gives them to worker B; A goes on (SIGCONT), finishes first, and reports
success while B still runs them. Whoever has that success on record has accepted a stale write.
Rescue: worker A is killed (SIGKILL) in the middle of a job; how long until worker B starts it, with default settings.
"""
import signal
import time

from processes import ChildFailed

#: A's handlers are over when it wakes; B's last until everything has been looked at.
SHORT, LONG = 1.0, 25.0


def started(worker, wanted, limit):
    """Waits until so many handlers have begun; the marks of those that did."""
    marks, deadline = [], time.monotonic() + limit
    while len(marks) < wanted and (left := deadline - time.monotonic()) > 0:
        said = worker.next(left)
        if said and "began" in said:
            marks.append((said["began"], said["at"]))
    return marks


def zombie(engine, server, jobs, limit=75):
    """{trials, again: how many were run again, accepted: stale successes on record while the second run was going on}."""
    database = engine.fresh(server, "zombie")
    if engine.zombie_sql:
        server.rows(database, engine.zombie_sql)
    processes = []

    def begin(mode, **options):
        process = engine.start(server, database, mode, **options)
        processes.append(process)
        return process

    try:
        if engine.leader:
            leader = begin("worker", handler="count", setting=engine.leader)
            leader.ask("go", "started")
            time.sleep(3)
        a = begin("worker", handler="sleep", sleep=SHORT, setting=engine.zombie)
        a.ask("go", "started")
        supply = begin("supply")
        supply.ask(str(jobs), "supplied")
        taken = started(a, jobs, 20)
        if not taken:
            raise ChildFailed("worker A took nothing within 20 s")
        a.signal(signal.SIGSTOP)
        b = begin("worker", handler="sleep", sleep=LONG, setting=engine.zombie)
        b.ask("go", "started")
        rescue = None
        if engine.key == "procrastinate":
            # It rescues nothing by itself; what its manual lets a periodic task do is done here.
            time.sleep(3)
            rescue = begin("rescue", stalled=engine.zombie["stalled_worker_timeout"])
            rescue.ask("rescue", "rescued")
        again = started(b, len(taken), limit)
        before = int(server.one(database, engine.accepted))
        a.signal(signal.SIGCONT)
        time.sleep(2.5)
        accepted = int(server.one(database, engine.accepted)) - before
        ended = [said for said in drained(b) if "ended" in said]
        if ended:
            raise ChildFailed("worker B's handlers were over before anything could be seen")
    finally:
        for process in reversed(processes):
            process.process.kill()
            process.process.wait()
        server.leave(database)
        server.drop(database)
    return {"trials": len(taken), "again": len(again), "accepted": accepted}


def drained(worker):
    while (said := worker.next(0)) is not None:
        yield said


def rescue(engine, server, limit=75):
    """Seconds from SIGKILL to the job's start on another worker that was idle all the time; None: not within the limit."""
    database = engine.fresh(server, "rescue")
    a = engine.start(server, database, "worker", handler="sleep", sleep=600, setting=engine.rescue)
    b = supply = None
    try:
        a.ask("go", "started")
        supply = engine.start(server, database, "supply")
        supply.ask("1", "supplied")
        if not started(a, 1, 20):
            raise ChildFailed("worker A took nothing within 20 s")
        b = engine.start(server, database, "worker", handler="sleep", sleep=600, setting=engine.rescue)
        b.ask("go", "started")
        time.sleep(3)
        killed = time.time_ns()
        a.signal(signal.SIGKILL)
        found = started(b, 1, limit)
        return (found[0][1] - killed) / 1e9 if found else None
    finally:
        for process in (a, b, supply):
            if process:
                process.process.kill()
                process.process.wait()
        server.drop(database)
