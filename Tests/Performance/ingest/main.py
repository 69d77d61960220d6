"""Bulk ingest beside COPY, on one private PostgreSQL, in one run: `bench ingest`.

Each round posts NDJSON lines of about a kilobyte to a real foretaste-ingest process, over HTTP, then copies the very rows that this made out of
`preferences.pair`, empties the table and puts them back with COPY: same table, same indexes, same rows, same server, durable commits on
both sides. Verification is paused on both sides: it is what happens after a pair was accepted. The bar is half of COPY's rate.
"""
import argparse
import hashlib
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "Tests/Performance/queue"), str(ROOT / "Tests/Performance")]
from processes import Child, end  # noqa: E402
from server import Server  # noqa: E402

DATABASE = "ingest"
BAR = 0.5


def arguments():
    parser = argparse.ArgumentParser(prog="bench ingest", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=20_000, help="how many pairs a round posts")
    parser.add_argument("--body", type=int, default=5_000, help="how many lines a request has")
    parser.add_argument("--clients", type=int, default=1, help="how many post at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=ROOT / ".build/release/foretaste-ingest")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    return parser.parse_args()


def migrate(server):
    server.create(DATABASE)
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        up = path.read_text().split("-- migrate:down")[0]
        server.rows(DATABASE, up)
    server.leave(DATABASE)


def line(number, round_number):
    def side(name):
        digest = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
        return {"url": f"http://127.0.0.1:1/latents/{digest[:2]}/{digest}.safetensors", "sha256": digest}

    document = {
        "source": "bench", "external_id": f"task-{round_number}-{number}", "prompt": "", "dimension": "vq", "outcome": "ab"[number % 2],
        "rater": f"rater-{number % 50}", "a": side("a"), "b": side("b"),
    }
    # A kilobyte in all, the newline counted.
    document["prompt"] = ("A red kite over a grey sea, seen from the pier. " * 30)[: 1023 - len(json.dumps(document))]
    return json.dumps(document).encode() + b"\n"


def post(address, bodies, failures):
    connection = http.client.HTTPConnection(address, timeout=300)
    for body in bodies:
        connection.request("POST", "/v1/preferences", body, {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        words = answer.read()
        if answer.status not in (200, 201) or b'"status":201' not in words.replace(b" ", b""):
            failures.append(f"{answer.status}: {words[:300]!r}")
            return


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid):
    return int(next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmHWM")).split()[1]) / 1024


def ingest_round(options, server, address, pid, number):
    lines = [line(index, number) for index in range(options.pairs)]
    bodies = [b"".join(lines[start : start + options.body]) for start in range(0, len(lines), options.body)]
    failures = []
    threads = [
        threading.Thread(target=post, args=(address, bodies[client :: options.clients], failures)) for client in range(options.clients)]
    before, start = cpu(pid), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise SystemExit(f"bench ingest: the service answered {failures[0]}")
    stored = int(server.one(DATABASE, "select count(*) from preferences.pair"))
    if stored != options.pairs:
        raise SystemExit(f"bench ingest: {stored} of {options.pairs} pairs are stored")
    return seconds, cpu(pid) - before


def copy_round(server):
    path = server.folder / "pairs.copy"
    columns = server.one(
        DATABASE, "select string_agg(attname, ',' order by attnum) from pg_attribute where attrelid = 'preferences.pair'::regclass "
        "and attnum > 0 and not attisdropped and attname <> 'seq' and attgenerated = ''")
    server.rows(DATABASE, f"copy preferences.pair ({columns}) to '{path}'")
    server.rows(DATABASE, "truncate preferences.pair cascade; checkpoint")
    start = time.perf_counter()
    server.rows(DATABASE, f"copy preferences.pair ({columns}) from '{path}'")
    seconds = time.perf_counter() - start
    server.rows(DATABASE, "truncate preferences.pair cascade; delete from queue.job; checkpoint")
    path.unlink()
    return seconds


def main():
    options = arguments()
    if not options.binary.exists():
        raise SystemExit(f"bench ingest: {options.binary} is not there: make build")
    server = Server()
    server.start()
    service = None
    data = Path(tempfile.mkdtemp(prefix="foretaste-bench-ingest-"))
    try:
        migrate(server)
        log = data / "log"
        service = Child(
            [options.binary], log=log, env=os.environ | {
                "DATABASE_URL": server.url(DATABASE), "FORETASTE_DATA": str(data), "FORETASTE_INGEST_LISTEN": "127.0.0.1:0",
                "FORETASTE_INGEST_READY_FILE": str(data / "ready.json"), "FORETASTE_ARTIFACTS_ALLOW": "http://127.0.0.1:1/",
                "FORETASTE_LOG_LEVEL": "warning", "FORETASTE_AUTHENTICATION": "off"})
        ready = data / "ready.json"
        for _ in range(600):
            if ready.exists() or service.process.poll() is not None:
                break
            time.sleep(0.05)
        if not ready.exists():
            raise SystemExit(f"bench ingest: the service does not start: {log.read_text()[-2000:]}")
        address = urlsplit(json.loads(ready.read_text())["url"]).netloc
        for _ in range(200):
            if int(server.one(DATABASE, "select count(*) from queue.queue where name = 'verify_preference'")):
                break
            time.sleep(0.05)
        server.rows(DATABASE, "select queue.pause('verify_preference')")
        rounds = []
        for number in range(options.rounds + 1):
            seconds, spent = ingest_round(options, server, address, service.process.pid, number)
            copied = copy_round(server)
            # The first round warms both up.
            if number:
                rounds.append({"ingest": options.pairs / seconds, "copy": options.pairs / copied, "cpu": spent / options.pairs * 1e6})
        ratio = statistics.median(one["ingest"] / one["copy"] for one in rounds)
        print(f"\n{options.pairs} pairs of 1 KB a round, {options.body} a request, {options.clients} at once, {options.rounds} rounds\n")
        print("| round | ingest, pairs/s | COPY, rows/s | ingest / COPY | service CPU, us/pair |\n| --- | --- | --- | --- | --- |")
        for number, one in enumerate(rounds):
            print(f"| {number + 1} | {one['ingest']:,.0f} | {one['copy']:,.0f} | {one['ingest'] / one['copy']:.2f} | {one['cpu']:.0f} |")
        print(f"\nmedian {ratio:.2f} of COPY (bar: {BAR}): {'met' if ratio >= BAR else 'NOT met'}; "
              f"the service's peak memory {peak(service.process.pid):.0f} MiB")
        if options.json:
            options.json.write_text(json.dumps({"rounds": rounds, "ratio": ratio, "bar": BAR}, indent=1))
    finally:
        if service:
            end(service.process)
        server.stop()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
