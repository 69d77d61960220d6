"""Pick-up latency of an idle worker: from just before the enqueue call, in one process, to the handler's start in another."""
from math import ceil

from processes import ChildFailed

RATES = (25, 100)


def percentile(waits, share):
    return waits[max(0, ceil(share * len(waits)) - 1)]


def figures(waits):
    """In milliseconds."""
    waits = sorted(wait / 1e6 for wait in waits)
    found = {name: percentile(waits, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))}
    return found | {"jobs": len(waits)}


def run(engine, server, seconds):
    """{rate: waits in nanoseconds}: one worker and one producer, the rates one after the other."""
    database = engine.fresh(server, "latency")
    worker = engine.start(server, database, "worker", handler="record", setting=engine.quick)
    producer = None
    found = {}
    try:
        worker.ask("go", "started")
        producer = engine.start(server, database, "produce")
        # Connections, plans and caches of both sides are warm before anything counts.
        producer.ask("20 2", "produced")
        for rate in RATES:
            skipped = len(worker.ask("waits", "waits")["waits"])
            producer.ask(f"{rate} {seconds}", "produced", seconds + 60)
            for _ in range(20):
                waits = worker.ask("waits", "waits")["waits"]
                if len(waits) - skipped >= int(rate * seconds):
                    break
                producer.next(0.2)  # Nothing comes; it is the time that is wanted.
            else:
                raise ChildFailed(f"{len(waits) - skipped} of {int(rate * seconds)} jobs were picked up at {rate}/s within 4 s")
            found[rate] = waits[skipped:]
    finally:
        if producer:
            producer.finish()
        worker.finish()
        server.leave(database)
    return found


def measure(engines, server, repetitions, seconds, progress, problems):
    """{(engine, rate): figures over all repetitions, with the p99 of each}."""
    pooled, each, failed = {}, {}, set()
    for repetition in range(repetitions):
        for engine in engines:
            if engine.name in failed:
                continue
            try:
                for rate, waits in run(engine, server, seconds).items():
                    pooled.setdefault((engine.name, rate), []).extend(waits)
                    each.setdefault((engine.name, rate), []).append(figures(waits)["p99"])
                latest = each[(engine.name, RATES[-1])][-1]
                progress(f"pick-up {repetition + 1}/{repetitions} {engine.name}: p99 {latest:.1f} ms at {RATES[-1]}/s")
            except Exception as error:
                failed.add(engine.name)
                problems.append(f"pick-up, {engine.name}: {error}")
                progress(problems[-1])
    return {key: figures(waits) | {"each": each[key]} for key, waits in pooled.items()}
