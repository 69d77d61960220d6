"""Bulk ingest beside COPY: the very rows that a round's posts made are copied out of `preferences.pair`, the table is emptied, and they are put
back with COPY: same table, same indexes, same rows, same server, durable commits on both sides. The bar is half of COPY's rate."""
import http.client
import statistics
import threading
import time

from processes import cpu_seconds
from service import line

BAR = 0.5


def post(address, bodies, failures):
    connection = http.client.HTTPConnection(address, timeout=300)
    for body in bodies:
        connection.request("POST", "/v1/preferences", body, {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        words = answer.read()
        if answer.status not in (200, 201) or b'"status":201' not in words.replace(b" ", b""):
            failures.append(f"{answer.status}: {words[:300]!r}")
            return


def ingest_round(options, service, number):
    lines = [line("bench", f"task-{number}-{index}", index) for index in range(options.pairs)]
    bodies = [b"".join(lines[start : start + options.body]) for start in range(0, len(lines), options.body)]
    failures = []
    threads = [
        threading.Thread(target=post, args=(service.address, bodies[client :: options.clients], failures))
        for client in range(options.clients)]
    server = service.server.child.process.pid
    before, server_before, start = service.cpu(), cpu_seconds(server), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise SystemExit(f"bench ingest: the service answered {failures[0]}")
    stored = int(service.one("select count(*) from preferences.pair"))
    if stored != options.pairs:
        raise SystemExit(f"bench ingest: {stored} of {options.pairs} pairs are stored")
    return seconds, service.cpu() - before, cpu_seconds(server) - server_before


def copy_round(service):
    path = service.server.folder / "pairs.copy"
    columns = service.one(
        "select string_agg(attname, ',' order by attnum) from pg_attribute where attrelid = 'preferences.pair'::regclass "
        "and attnum > 0 and not attisdropped and attname <> 'seq' and attgenerated = ''")
    service.rows(f"copy preferences.pair ({columns}) to '{path}'")
    service.rows("truncate preferences.pair cascade; checkpoint")
    server = service.server.child.process.pid
    before, start = cpu_seconds(server), time.perf_counter()
    service.rows(f"copy preferences.pair ({columns}) from '{path}'")
    seconds, spent = time.perf_counter() - start, cpu_seconds(server) - before
    service.rows("truncate preferences.pair cascade; delete from queue.job; checkpoint")
    path.unlink()
    return seconds, spent


def run(options, service):
    rounds = []
    for number in range(options.rounds + 1):
        seconds, spent, served = ingest_round(options, service, number)
        copied, copying = copy_round(service)
        # The first round warms both up.
        if number:
            rounds.append({
                "ingest": options.pairs / seconds, "copy": options.pairs / copied, "cpu": spent / options.pairs * 1e6,
                "server": served / options.pairs * 1e6, "copy_cpu": copying / options.pairs * 1e6})
    ratio = statistics.median(one["ingest"] / one["copy"] for one in rounds)
    print(f"\n## Bulk\n\n{options.pairs} pairs of 1 KB a round, {options.body} a request, {options.clients} at once, {options.rounds} rounds\n")
    print("| round | ingest, pairs/s | COPY, rows/s | ingest / COPY | CPU, us/pair: service | PostgreSQL | COPY |\n| --- | --- | --- | --- | --- | --- | --- |")
    for number, one in enumerate(rounds):
        print(f"| {number + 1} | {one['ingest']:,.0f} | {one['copy']:,.0f} | {one['ingest'] / one['copy']:.2f} | {one['cpu']:.0f} | "
              f"{one['server']:.0f} | {one['copy_cpu']:.0f} |")
    print(f"\nThe service's peak memory: {service.memory('VmHWM'):.0f} MiB", flush=True)
    return {"rounds": rounds, "ratio": ratio}, [("bulk ingest of 1 KB pairs over COPY of the same rows", f"{ratio:.2f}", f">= {BAR}", ratio >= BAR)]
