"""A reader that holds a snapshot open (a REPEATABLE READ transaction) keeps every dead row: what that does to the rate.

A supplier keeps the queue filled, in bulk; one worker drains. First without the reader, then with it, in one database without a break.
"""
import time

from processes import cpu_seconds

DEPTH = 4  # Seconds of work kept in the queue, at most.


class Feed:
    """Worker and supplier of one engine; the supplier is asked for more before the worker runs dry."""

    def __init__(self, server, worker, supplier, first):
        self.server, self.worker, self.supplier = server, worker, supplier
        self.supplied, self.block, self.busy = first, first // 2, False

    def count(self):
        answer = self.worker.ask("count", "count")
        return answer["count"], answer["at"]

    def run(self, seconds):
        """Jobs a second over this time and over its last quarter, and CPU a job (server and worker, filling included) in µs."""
        before = self.cpu()
        points = [self.count()]
        end = points[0][1] + seconds * 1e9
        while points[-1][1] < end:
            self.top_up(points[-1][0])
            time.sleep(0.05)
            points.append(self.count())
        quarter = next(point for point in points if point[1] >= end - seconds * 1e9 / 4)
        cpu = (self.cpu() - before) / max(1, points[-1][0] - points[0][0]) * 1e6
        return rate(points[0], points[-1]), rate(quarter, points[-1]), cpu

    def cpu(self):
        return cpu_seconds(self.server.child.process.pid) + cpu_seconds(self.worker.process.pid)

    def top_up(self, done):
        if self.busy and self.supplier_is_done():
            self.supplied += self.block
            self.busy = False
        if not self.busy and self.supplied - done < 2 * self.block:
            self.supplier.tell(str(self.block))
            self.busy = True

    def supplier_is_done(self):
        said = self.supplier.next(0)
        return said is not None and "supplied" in said


def rate(first, last):
    return (last[0] - first[0]) / max(1e-9, (last[1] - first[1]) / 1e9)


def run(engine, server, per_second, unpinned_s, pinned_s):
    """One engine: the rate without and with the reader. `per_second` sizes the supply: about its drain rate."""
    first = max(200, int(per_second * DEPTH / 2))
    database = engine.fresh(server, "pinned", first)
    supplier = engine.start(server, database, "supply")
    worker = engine.start(server, database, "worker", handler="count", setting=engine.tuned)
    try:
        worker.ask("go", "started")
        feed = Feed(server, worker, supplier, first)
        feed.run(min(3, unpinned_s))  # Warm: the first claims, the first top-up.
        unpinned, _, cpu = feed.run(unpinned_s)
        server.rows(database, "begin isolation level repeatable read")
        server.rows(database, "select count(*) from pg_class")
        pinned, last, pinned_cpu = feed.run(pinned_s)
        held = server.one("postgres", f"select count(*) from pg_stat_activity where datname = '{database}' and backend_xmin is not null")
        server.rows(database, "commit")
    finally:
        worker.finish()
        supplier.finish()
        server.leave(database)
    if int(held) < 1:
        raise RuntimeError("the reader's snapshot was not held")
    return {
        "unpinned": unpinned, "pinned": pinned, "last": last, "ratio": pinned / unpinned, "last_ratio": last / unpinned, "cpu": cpu,
        "pinned_cpu": pinned_cpu}


def measure(engines, server, rates, unpinned_s, pinned_s, progress, problems):
    """{engine: figures}; `rates` is what each drained with its tuned settings, if that was measured."""
    found = {}
    for engine in engines:
        try:
            found[engine.name] = run(engine, server, rates.get(engine.name, engine.jobs["tuned"] / 8), unpinned_s, pinned_s)
            figures = found[engine.name]
            progress(f"pinned xmin {engine.name}: {figures['unpinned']:,.0f} -> {figures['pinned']:,.0f} jobs/s")
        except Exception as error:
            problems.append(f"pinned xmin, {engine.name}: {error}")
            progress(problems[-1])
        finally:
            server.drop(f"pinned_{engine.key}")
    return found
