"""Kills at random points, while clients post pairs one by one and in bulk: of what was acknowledged nothing may be missing, and nothing may be
there twice. The service dies by SIGKILL; PostgreSQL by an immediate shutdown, which is its crash."""
import http.client
import json
import random
import threading
import time

from service import line

SOURCE = "kill"
SINGLES, BULKS, BULK_LINES = 6, 4, 120


class Client(threading.Thread):
    """Posts pair after pair, each under a key of its own, and notes what it was told about each."""

    def __init__(self, run, number, bulk):
        super().__init__(daemon=True)
        self.run_state, self.number, self.bulk = run, number, bulk
        self.random = random.Random(f"{run.seed}-{number}")
        self.next = 0
        self.posted = []
        self.acknowledged = {}
        self.faults = []
        self.answers = 0

    def run(self):
        connection = None
        while not self.run_state.over.is_set():
            self.run_state.going.wait(0.2)
            if not self.run_state.going.is_set():
                continue
            keys = self.fresh()
            body = b"".join(line(SOURCE, key, number) for key, number in keys)
            self.posted += keys
            self.run_state.busy(self, True)
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.run_state.service.address, timeout=20)
                kind = "application/x-ndjson" if self.bulk else "application/json"
                connection.request("POST", "/v1/preferences", body, {"Content-Type": kind})
                answer = connection.getresponse()
                self.take(keys, answer.status, answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                # Nobody knows what became of it, and no promise was made.
                if connection:
                    connection.close()
                connection = None
                time.sleep(0.05)
            finally:
                self.run_state.busy(self, False)

    def fresh(self):
        count = self.random.randrange(1, 2 * BULK_LINES) if self.bulk else 1
        keys = [(f"{self.number}-{self.next + index}", self.next + index) for index in range(count)]
        self.next += count
        return keys

    def take(self, keys, status, words):
        if status == 503:
            # The database is away: no promise.
            time.sleep(0.1)
            return
        self.answers += 1
        if not self.bulk and status == 201:
            self.acknowledged[keys[0][0]] = json.loads(words)["id"]
        elif self.bulk and status in (200, 207):
            results = json.loads(words)["results"]
            if [one["line"] for one in results] != list(range(1, len(keys) + 1)):
                self.faults.append(f"a bulk answer has {len(results)} results for {len(keys)} lines, or in another order")
            for (key, _), one in zip(keys, results):
                if one["status"] == 201:
                    self.acknowledged[key] = one["id"]
                else:
                    self.faults.append(f"a new line was answered {one}")
        else:
            self.faults.append(f"a new {'body' if self.bulk else 'pair'} was answered {status}: {words[:200]!r}")


class Run:
    """What the clients share."""

    def __init__(self, service, seed):
        self.service, self.seed = service, seed
        self.over, self.going = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.at_work = set()
        self.clients = [Client(self, number, number >= SINGLES) for number in range(SINGLES + BULKS)]

    def busy(self, client, is_busy):
        with self.lock:
            (self.at_work.add if is_busy else self.at_work.discard)(client)

    def pause(self):
        self.going.clear()
        deadline = time.monotonic() + 60
        while self.at_work and time.monotonic() < deadline:
            time.sleep(0.005)
        if self.at_work:
            raise SystemExit("bench ingest: a client got no answer and no error within a minute")

    def check(self):
        """What is wrong with what is stored, as far as anybody can know now."""
        faults = [fault for client in self.clients for fault in client.faults]
        stored = {}
        for key, identifier, job in self.service.rows(
                f"select p.external_id, p.id, exists (select from queue.job j where j.id = p.verify_job)::text from preferences.pair p "
                f"where p.source = '{SOURCE}'"):
            if key in stored:
                faults.append(f"{key} is stored twice")
            if job != "true":
                faults.append(f"{key} has no verification job")
            stored[key] = identifier
        posted = {key for client in self.clients for key, _ in client.posted}
        faults += [f"{key} is stored and was never posted" for key in stored.keys() - posted]
        for client in self.clients:
            for key, identifier in client.acknowledged.items():
                if stored.get(key) != identifier:
                    faults.append(f"{key} was acknowledged as {identifier}, and is {stored.get(key, 'lost')}")
        return faults, len(stored)

    def resend(self):
        """Posts everything again in bulk; the counts, and what is wrong."""
        created = replayed = 0
        faults = []
        for client in self.clients:
            for start in range(0, len(client.posted), 2000):
                keys = client.posted[start : start + 2000]
                connection = http.client.HTTPConnection(self.service.address, timeout=120)
                connection.request(
                    "POST", "/v1/preferences", b"".join(line(SOURCE, key, number) for key, number in keys),
                    {"Content-Type": "application/x-ndjson"})
                answer = json.loads(connection.getresponse().read())
                connection.close()
                for (key, _), one in zip(keys, answer["results"], strict=True):
                    created += one["status"] == 201
                    replayed += one["status"] == 200
                    known = client.acknowledged.get(key)
                    if one["status"] not in (200, 201) or known and (one["status"] != 200 or one["id"] != known):
                        faults.append(f"{key}, acknowledged as {known}, was answered {one} when it was posted again")
                    client.acknowledged[key] = one.get("id")
        return created, replayed, faults


def run(options, service):
    chance = random.Random(options.seed)
    state = Run(service, options.seed)
    faults, kills = [], {"service": 0, "PostgreSQL": 0}
    began = time.monotonic()
    for client in state.clients:
        client.start()
    for number in range(options.kills):
        state.going.set()
        time.sleep(chance.uniform(0.05, 1.5))
        # The first two are one of each, whatever the seed.
        victim = ["service", "PostgreSQL"][number] if number < 2 else chance.choice(["service", "PostgreSQL"])
        kills[victim] += 1
        if victim == "service":
            service.kill()
            state.pause()
            service.start()
        else:
            service.server.crash()
            # Clients go on and are refused, for a while.
            time.sleep(chance.uniform(0, 0.3))
            service.server.launch()
            service.wait_ready()
            if service.child.process.poll() is not None:
                faults.append("the service ended when its database went away")
                service.start()
            # And the service takes pairs again, by itself.
            before = sum(client.answers for client in state.clients)
            deadline = time.monotonic() + 30
            while sum(client.answers for client in state.clients) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            if sum(client.answers for client in state.clients) == before:
                faults.append("after its database came back the service took no pair for 30 s")
            state.pause()
        found, stored = state.check()
        faults += [f"round {number + 1}, {victim} killed: {fault}" for fault in found[:5]]
        if faults:
            break
    state.over.set()
    for client in state.clients:
        client.join()
    posted = sum(len(client.posted) for client in state.clients)
    acknowledged = sum(len(client.acknowledged) for client in state.clients)
    _, stored = state.check()
    first = again = (0, 0, [])
    if not faults:
        first, again = state.resend(), state.resend()
        faults += first[2] + again[2]
        if first[0] != posted - stored or again[0] or again[1] != posted:
            faults.append(f"posting all {posted} again created {first[0]} ({posted - stored} were missing), and once more {again[0]}")
        faults += state.check()[0]
    print(f"\n## kill -9\n\nseed {options.seed}: {kills['service']} kills of the service and {kills['PostgreSQL']} of PostgreSQL in "
          f"{time.monotonic() - began:.0f} s; {posted:,} pairs posted by {SINGLES} clients one by one and {BULKS} in bulk, {acknowledged:,} "
          f"acknowledged, {stored:,} stored; posted again: {first[0]:,} created, {first[1]:,} replayed; once more: {again[0]:,} and {again[1]:,}")
    for fault in faults[:20]:
        print(f"- {fault}")
    return (
        {"seed": options.seed, "kills": kills, "posted": posted, "acknowledged": acknowledged, "stored": stored, "faults": faults},
        [(f"rows lost or doubled by {sum(kills.values())} kills, of {acknowledged:,} acknowledged", f"{len(faults)}", "0", not faults)])
