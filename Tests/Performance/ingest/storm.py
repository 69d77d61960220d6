"""A thousand clients at once, most of them a nuisance. Each keeps a connection and does one thing over and over:

    single     posts a pair and waits for its answer; its latencies are what a good client sees in the storm
    bulk       posts NDJSON lines
    slow       posts NDJSON lines, or asks for a long page, and reads the answer one byte at a time through a small receive buffer
    half       sends a head and half a body, and says nothing more for as long as it is let
    vanishing  sends half a body and resets the connection

All are there from the beginning. The warm-up ends when each has done its thing once. Memory is sampled; what it grows by from there is the bar,
and what is left of the storm once all have gone. Every pair that was acknowledged must be stored."""
import asyncio
import json
import random
import socket
import struct
import time

from service import line

SOURCE = "storm"
SHARES = {"single": 0.4, "bulk": 0.2, "slow": 0.15, "half": 0.15, "vanishing": 0.1}
LONGEST_WARM_UP = 180
BULK_LINES = 100
GROWTH = 64  # MiB


class Storm:
    def __init__(self, service, options):
        self.service, self.options = service, options
        self.host, port = service.address.rsplit(":", 1)
        self.port = int(port)
        self.ends = float("inf")
        self.warm = set()
        self.latencies = []
        self.acknowledged = {}
        self.counts = {"answers": 0, "refused": 0, "byte by byte": 0, "half bodies": 0, "vanished": 0, "sent away": 0, "cut off": 0}
        self.faults = []
        self.connected = 0

    def did(self, client):
        """It has done its thing."""
        self.warm.add(client.number)

    def body(self, client, count):
        keys = [(f"{client.number}-{client.next + index}", client.next + index) for index in range(count)]
        client.next += count
        return keys, b"".join(line(SOURCE, key, number) for key, number in keys)

    def take(self, keys, status, words):
        """An answer to a post."""
        self.counts["answers"] += 1
        if status in (429, 503):
            self.counts["refused"] += 1
        elif len(keys) == 1 and status == 201:
            self.acknowledged[keys[0][0]] = json.loads(words)["id"]
        elif len(keys) > 1 and status == 200:
            for (key, _), one in zip(keys, json.loads(words)["results"], strict=True):
                self.acknowledged[key] = one["id"]
        else:
            self.faults.append(f"{len(keys)} new pairs were answered {status}: {words[:200]!r}")


class Client:
    def __init__(self, storm, number, kind):
        self.storm, self.number, self.kind = storm, number, kind
        self.random = random.Random(f"{storm.options.seed}-{number}")
        self.next = 0

    async def live(self):
        # The thousand come within a second, as after a restart of whatever stands in front.
        await asyncio.sleep(self.random.random())
        while time.monotonic() < self.storm.ends:
            writer = None
            try:
                reader, writer = await self.connect()
                self.storm.connected += 1
                try:
                    await getattr(self, self.kind)(reader, writer)
                finally:
                    self.storm.connected -= 1
            except (OSError, asyncio.IncompleteReadError):
                self.storm.counts["cut off"] += 1
                await asyncio.sleep(self.random.uniform(0.1, 0.5))
            finally:
                if writer:
                    writer.transport.abort()

    async def rest(self, least, most):
        until = time.monotonic() + self.random.uniform(least, most)
        while (now := time.monotonic()) < min(until, self.storm.ends):
            await asyncio.sleep(min(0.5, until - now))

    async def connect(self):
        end = socket.socket()
        end.setblocking(False)
        if self.kind == "slow":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(end, (self.storm.host, self.storm.port))
        return await asyncio.open_connection(sock=end, limit=2048 if self.kind == "slow" else 1 << 16)

    def head(self, length, kind, method="POST", path="/v1/preferences"):
        return (f"{method} {path} HTTP/1.1\r\nHost: storm\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n").encode()

    @staticmethod
    async def answer_head(reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0]) if "content-length:" in head else 0
        return int(head.split(" ", 2)[1]), length

    async def post(self, reader, writer, count, kind):
        keys, body = self.storm.body(self, count)
        began = time.monotonic()
        writer.write(self.head(len(body), kind) + body)
        await writer.drain()
        status, length = await self.answer_head(reader)
        words = await reader.readexactly(length)
        if self.kind == "single":
            self.storm.latencies.append((began, time.monotonic() - began))
        self.storm.take(keys, status, words)
        self.storm.did(self)

    async def single(self, reader, writer):
        while time.monotonic() < self.storm.ends:
            await self.post(reader, writer, 1, "application/json")
            await self.rest(0.5, 1.5)

    async def bulk(self, reader, writer):
        while time.monotonic() < self.storm.ends:
            await self.post(reader, writer, BULK_LINES, "application/x-ndjson")
            await self.rest(5, 15)

    async def slow(self, reader, writer):
        while time.monotonic() < self.storm.ends:
            keys = None
            if self.random.random() < 0.5:
                keys, body = self.storm.body(self, BULK_LINES)
                writer.write(self.head(len(body), "application/x-ndjson") + body)
            else:
                writer.write(self.head(0, "application/json", "GET", "/v1/preferences?limit=1000"))
            await writer.drain()
            status, length = await self.answer_head(reader)
            self.storm.did(self)
            words = bytearray()
            while len(words) < length and time.monotonic() < self.storm.ends:
                words += await reader.readexactly(1)
                self.storm.counts["byte by byte"] += 1
                await asyncio.sleep(0.01)
            if keys and len(words) == length:
                self.storm.take(keys, status, bytes(words))
            elif len(words) < length:
                return

    async def half(self, reader, writer):
        count, kind = (1, "application/json") if self.random.random() < 0.5 else (2 * BULK_LINES, "application/x-ndjson")
        _, body = self.storm.body(self, count)
        writer.write(self.head(len(body), kind) + body[: self.random.randrange(1, len(body))])
        await writer.drain()
        self.storm.counts["half bodies"] += 1
        self.storm.did(self)
        while time.monotonic() < self.storm.ends:
            try:
                await asyncio.wait_for(reader.read(1), 1)
                self.storm.counts["sent away"] += 1
                return
            except asyncio.TimeoutError:
                pass

    async def vanishing(self, reader, writer):
        await self.half_then_reset(writer)
        await asyncio.sleep(self.random.uniform(0.5, 2))

    async def half_then_reset(self, writer):
        _, body = self.storm.body(self, BULK_LINES)
        writer.write(self.head(len(body), "application/x-ndjson") + body[: self.random.randrange(1, len(body))])
        await writer.drain()
        await asyncio.sleep(self.random.uniform(0, 0.2))
        # No FIN: the connection is just gone.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        self.storm.counts["vanished"] += 1
        self.storm.did(self)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def blow(storm, kinds, samples):
    """The whole storm; answers when it was warm."""
    began = time.monotonic()
    clients = [Client(storm, number, kind) for number, kind in enumerate(kinds)]
    tasks = [asyncio.create_task(client.live()) for client in clients]
    warm_at = None
    while time.monotonic() < storm.ends:
        now = time.monotonic()
        if warm_at is None and (len(storm.warm) == len(clients) or now - began > LONGEST_WARM_UP):
            warm_at, storm.ends = now, now + storm.options.seconds
            if cold := [client.kind for client in clients if client.number not in storm.warm]:
                storm.faults.append(f"after {LONGEST_WARM_UP} s {len(cold)} clients had not been served once, {cold[0]} among them")
        samples.append((now - began, storm.service.memory(), storm.connected, warm_at is not None))
        await asyncio.sleep(0.25)
    # Whoever still waits for an answer gets it; the others have gone.
    done, late = await asyncio.wait(tasks, timeout=120)
    for task in late:
        task.cancel()
        storm.faults.append("a client had no answer two minutes after the storm")
    for task in done:
        if error := task.exception():
            storm.faults.append(f"a client failed: {error!r}")
    return began, warm_at


def run(options, service):
    storm = Storm(service, options)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * options.storm))]
    random.Random(options.seed).shuffle(kinds)
    files, idle = service.open_files(), service.memory()
    samples = []
    spent, mine = service.cpu(), time.process_time()
    began, warm_at = asyncio.run(blow(storm, kinds, samples))
    spent, mine, lasted = service.cpu() - spent, time.process_time() - mine, time.monotonic() - began
    warm = [memory for _, memory, _, is_warm in samples if not is_warm]
    after = [memory for _, memory, _, is_warm in samples if is_warm]
    growth = max(after) - max(warm)
    # All have gone: their connections with them, and what they held.
    deadline = time.monotonic() + 30
    while service.open_files() > files + 10 and time.monotonic() < deadline:
        time.sleep(0.25)
    left_files, left = service.open_files() - files, service.memory()
    stored = dict(service.rows(f"select external_id, id from preferences.pair where source = '{SOURCE}'"))
    lost = [key for key, identifier in storm.acknowledged.items() if stored.get(key) != identifier]
    storm.faults += [f"{key} was acknowledged and is not stored" for key in lost[:5]]
    if left_files > 10:
        storm.faults.append(f"{left_files} descriptors are still open 30 s after everybody has gone")
    calm = [seconds for at, seconds in storm.latencies if at >= warm_at]
    most = max(connected for _, _, connected, _ in samples)
    print(f"\n## Storm\n\n{len(kinds)} clients ({', '.join(f'{kinds.count(kind)} {kind}' for kind in SHARES)}), at most {most} connected at once; "
          f"{options.seconds:.0f} s, warm after {warm_at - began:.0f} s\n")
    print("| memory, MiB: before | warm | most afterwards | left when all have gone | a connection, KiB |\n| --- | --- | --- | --- | --- |")
    print(f"| {idle:.0f} | {max(warm):.0f} | {max(after):.0f} | {left:.0f} | {(max(after) - idle) * 1024 / max(most, 1):.0f} |\n")
    print(f"{len(storm.acknowledged):,} pairs acknowledged and {len(stored):,} stored; "
          + ", ".join(f"{count:,} {what}" for what, count in storm.counts.items()))
    print(f"A well-behaved client's post: median {1000 * percentile(calm, 0.5):.0f} ms, p99 {1000 * percentile(calm, 0.99):.0f} ms, "
          f"worst {1000 * max(calm, default=0):.0f} ms ({len(calm):,} posts; the clients share the machine)", flush=True)
    print(f"In {lasted:.0f} s the service used {spent:.1f} s of CPU, and its clients (this program) {mine:.1f} s", flush=True)
    for fault in storm.faults[:20]:
        print(f"- {fault}")
    bars = [
        (f"memory of the service under {len(kinds)} clients, growth once warm", f"{growth:+.0f} MiB", f"< {GROWTH} MiB", growth < GROWTH),
        ("the same, left when all have gone, over warm", f"{left - max(warm):+.0f} MiB", "<= 16 MiB", left - max(warm) <= 16),
        (f"rows lost of {len(storm.acknowledged):,} acknowledged, and other faults", f"{len(storm.faults)}", "0", not storm.faults),
    ]
    return {
        "clients": len(kinds), "samples": samples, "counts": storm.counts, "left": left, "p99": percentile(calm, 0.99),
        "faults": storm.faults}, bars
