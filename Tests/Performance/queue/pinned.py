"""A reader that holds a snapshot open (a REPEATABLE READ transaction) keeps every dead row: what that does to the rate.

Two databases on one server, each with a supplier and a worker of its own. In one of them the reader holds its snapshot from the first
slice to the last; a snapshot keeps the rows of its own database only, so the other one is free of it, which is looked at, not supposed. The
two are filled and drained in alternating slices, and each slice is compared with its neighbour, because the machine's pace changes from
minute to minute. While one works the other's tables are closed to autovacuum, so that each bears the vacuuming of its own dead rows and
of no others.
"""
import time
from statistics import median

from processes import ChildFailed, cpu_seconds
from server import Session

#: Seconds of filling and draining before a slice counts.
WARM = 1.5
#: Work that is kept in the queue, in seconds of the engine's rate: the rest after a slice is drained before the other's turn.
DEPTH = 1.5


class Database:
    """One database with its supplier and its worker."""

    def __init__(self, engine, server, name, per_second):
        self.engine, self.server = engine, server
        self.pace = per_second
        self.block = max(100, int(per_second * DEPTH / 2))
        self.supplied, self.busy = 0, False
        self.hungry = self.looks = 0
        self.name = engine.fresh(server, name)
        self.supplier = engine.start(server, self.name, "supply")
        self.worker = engine.start(server, self.name, "worker", handler="count", setting=engine.tuned)
        self.worker.ask("go", "started")

    def slice(self, seconds):
        """{rate, cpu: µs a job of server and worker, worked: seconds, hungry: how often the queue was empty}."""
        self.server.rows(self.name, "rollback")
        began = time.monotonic()
        found = self.filled(seconds) if self.engine.pause else self.fed(seconds)
        self.rest()
        return found | {"worked": time.monotonic() - began}

    def filled(self, seconds):
        """Fills the queue while it is paused, then drains it: for an engine that drains faster than it can be filled."""
        self.server.rows(self.name, self.engine.pause)
        wanted = int(self.pace * seconds)
        self.supplier.ask(str(wanted), "supplied", 600)
        self.supplied += wanted
        before, first = self.cpu(), self.count()
        self.server.rows(self.name, self.engine.resume)
        last = self.drain()
        self.pace = wanted / ((last[1] - first[1]) / 1e9)
        return {"rate": self.pace, "cpu": (self.cpu() - before) / wanted * 1e6, "hungry": 0.0}

    def fed(self, seconds):
        """Keeps the queue filled while it is drained."""
        self.feed(WARM)
        self.hungry = self.looks = 0
        before, first = self.cpu(), self.count()
        last = self.feed(seconds)
        cpu = self.cpu() - before
        if self.busy:
            self.supplier.wait("supplied", 120)
            self.supplied += self.block
            self.busy = False
        self.drain()
        jobs = last[0] - first[0]
        return {
            "rate": jobs / ((last[1] - first[1]) / 1e9), "cpu": cpu / max(1, jobs) * 1e6, "hungry": self.hungry / max(1, self.looks)}

    def feed(self, seconds):
        """Asks the supplier for more before the worker runs dry, for so long; (jobs done, when) at the end."""
        end = time.monotonic() + seconds
        while True:
            point = self.count()
            self.top_up(point[0])
            if time.monotonic() >= end:
                return point
            time.sleep(0.03)

    def count(self):
        answer = self.worker.ask("count", "count")
        return answer["count"], answer["at"]

    def cpu(self):
        return cpu_seconds(self.server.child.process.pid) + cpu_seconds(self.worker.process.pid)

    def top_up(self, done):
        if self.busy and (said := self.supplier.next(0)) is not None and "supplied" in said:
            self.supplied += self.block
            self.busy = False
        self.looks += 1
        # Nothing left of what is known to be in the queue: the supplier sets the pace, not the worker.
        self.hungry += done >= self.supplied
        if not self.busy and self.supplied - done < 2 * self.block:
            self.supplier.tell(str(self.block))
            self.busy = True

    def drain(self, limit=120):
        """(jobs done, when) when all that was supplied has been handled."""
        deadline = time.monotonic() + limit
        while (point := self.count())[0] < self.supplied:
            if time.monotonic() > deadline:
                raise ChildFailed(f"{point[0]:,} of {self.supplied:,} jobs handled {limit} s after the last was supplied")
            time.sleep(0.01)
        return point

    def rest(self):
        """Closes the tables with dead rows to autovacuum: whoever finds this lock taken passes a table over."""
        tables = self.server.rows(
            self.name, "select format('%I.%I', schemaname, relname) from pg_stat_user_tables where n_tup_upd + n_tup_del > 10000")
        self.server.rows(self.name, "begin")
        for (table,) in tables:
            self.server.rows(self.name, f"lock table only {table} in share update exclusive mode")

    def dead(self):
        """Dead rows, as far as the statistics know."""
        self.server.rows(self.name, "rollback")
        return int(self.server.one(self.name, "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables"))

    def snapshots(self):
        """Age of the oldest snapshot held in this database, in seconds; none: 0."""
        return float(self.server.one("postgres", f"""
            select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0) from pg_stat_activity
            where datname = '{self.name}' and backend_xmin is not null and backend_type = 'client backend'"""))

    def close(self):
        for process in (self.worker, self.supplier):
            process.finish()
        self.server.leave(self.name)


def run(engine, server, per_second, seconds):
    """One engine, the snapshot held for so long. `per_second` sizes the supply: about its drain rate."""
    length = min(8, max(3, seconds / 10))
    free = held = reader = None
    pairs, began = [], None
    try:
        free, held = Database(engine, server, "free", per_second), Database(engine, server, "pinned", per_second)
        for database in (free, held):
            database.slice(min(3, length))  # The first claims, the first top-up.
        server.rows(held.name, "rollback")
        reader = Session(server, held.name)
        reader.rows("begin isolation level repeatable read")
        reader.rows("select count(*) from pg_class")
        began = time.monotonic()
        while not pairs or time.monotonic() - began < seconds:
            # Each goes first as often as the other.
            order = (free, held) if len(pairs) % 2 == 0 else (held, free)
            slices = {database.name: database.slice(length) for database in order}
            pairs.append((slices[free.name], slices[held.name]))
        ages = free.snapshots(), held.snapshots()
        dead = free.dead(), held.dead()
        reader.rows("commit")
    finally:
        if reader:
            reader.close()
        for database in (free, held):
            if database:
                database.close()
                server.drop(database.name)
    if ages[1] < seconds or ages[0] > length:
        raise RuntimeError(f"the snapshots' ages are {ages[0]:.0f} s in the free database and {ages[1]:.0f} s in the pinned one")
    return figures(pairs) | {"held_s": ages[1], "dead": dead}


def figures(pairs):
    """Of pairs of slices (free, pinned): medians, and the median of the pairs' ratios; the last quarter's ratio beside it."""
    ratios = [pinned["rate"] / free["rate"] for free, pinned in pairs]
    last = ratios[-max(1, len(ratios) // 4):]
    return {
        "unpinned": median(free["rate"] for free, _ in pairs), "pinned": median(pinned["rate"] for _, pinned in pairs),
        "ratio": median(ratios), "last_ratio": median(last), "ratios": ratios, "slices": len(pairs),
        "cpu_ratio": median(pinned["cpu"] / free["cpu"] for free, pinned in pairs),
        "cpu": median(free["cpu"] for free, _ in pairs), "pinned_cpu": median(pinned["cpu"] for _, pinned in pairs),
        "worked_s": sum(pinned["worked"] for _, pinned in pairs), "hungry": median(part["hungry"] for pair in pairs for part in pair)}


def measure(engines, server, rates, seconds, peer_seconds, progress, problems):
    """{engine: figures}; `rates` is what each drained with its tuned settings, if that was measured."""
    found = {}
    for engine in engines:
        try:
            rate = rates.get(engine.name, engine.jobs["tuned"] / 8)
            found[engine.name] = run(engine, server, rate, seconds if engine.ours else peer_seconds)
            got = found[engine.name]
            progress(f"pinned xmin {engine.name}: {100 * got['ratio']:.0f} % over {got['held_s']:.0f} s, last quarter {100 * got['last_ratio']:.0f} %")
        except Exception as error:
            problems.append(f"pinned xmin, {engine.name}: {error}")
            progress(problems[-1])
    return found
