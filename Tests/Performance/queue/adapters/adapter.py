"""What every peer's adapter shares: one library, one process, one mode, JSON lines out, commands (one a line) in.

    python peer_x.py setup   {"dsn": …}                    installs the library's schema in an empty database
    python peer_x.py supply  {"dsn": …}                    a line "1000" enqueues so many through the library's bulk call
    python peer_x.py produce {"dsn": …, "rate": 25, "seconds": 10}   enqueues one by one at a fixed pace
    python peer_x.py worker  {"dsn": …, "setting": {…}, "handler": …}   one worker process, until the line "stop"
    python peer_x.py rescue  {"dsn": …}                    what a user of the library has to run himself, if anything, a line each time

Handlers: count (no-op, says how many it had), record (no-op, keeps the time since enqueue), sleep (says when it began and ended).
"""
import asyncio
import json
import os
import sys
import threading
import time

PAYLOAD_BYTES = 256


def payload(moment):
    """Arguments of one job: 256 bytes of JSON."""
    bare = {"t": moment, "pad": ""}
    bare["pad"] = "x" * (PAYLOAD_BYTES - len(json.dumps(bare)))
    return bare


def say(**fields):
    print(json.dumps(fields), flush=True)


class Adapter:
    """One library. `handle` is what the library's handler awaits; it takes a function that gives the payload."""

    queue = "bench"
    #: Arguments of the worker; what a setting does not name is the library's default.
    setting = {}

    def __init__(self, options):
        self.options = options
        self.dsn = options["dsn"]
        self.setting = options.get("setting", {})
        self.handle = None
        self.began = lambda: None

    async def install(self):
        """The schema, through the library's own installer."""
        raise NotImplementedError

    async def connect(self):
        """What `many` and `one` need."""

    async def many(self, payloads):
        """The library's bulk enqueue."""
        raise NotImplementedError

    async def one(self, argument):
        """The library's enqueue of one job, committed when it returns."""
        raise NotImplementedError

    async def work(self, stop):
        """Runs a worker until the event is set."""
        raise NotImplementedError

    async def rescue(self):
        """Nothing, for a library that rescues by itself."""


class Commands:
    """Lines of standard input. Its end is a "stop": a process whose runner is gone has nothing to stay for."""

    def __init__(self):
        self.lines = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in sys.stdin:
            self.loop.call_soon_threadsafe(self.lines.put_nowait, line.strip())
        try:
            self.loop.call_soon_threadsafe(self.lines.put_nowait, "stop")
        except RuntimeError:
            pass  # The loop has ended first.

    async def next(self):
        return await self.lines.get()


class Count:
    """A no-op that says when it has had as many as wanted, and how many when it is asked."""

    def __init__(self, adapter):
        self.count = 0
        self.wanted = adapter.options.get("jobs", -1)

    async def __call__(self, read):
        self.count += 1
        if self.count == self.wanted:
            say(handled=self.count, at=time.time_ns())

    def answer(self):
        return {"count": self.count, "at": time.time_ns()}


class Record:
    """Keeps how long ago the enqueue call of each job began."""

    def __init__(self, adapter):
        self.waits = []

    async def __call__(self, read):
        now = time.time_ns()
        self.waits.append(now - read()["t"])

    def answer(self):
        return {"waits": self.waits}


class Sleep:
    """Says that it began, sleeps, says that it ended."""

    def __init__(self, adapter):
        self.seconds = adapter.options["sleep"]

    async def __call__(self, read):
        mark = read()["t"]
        say(began=mark, at=time.time_ns())
        # Wall time and short naps: a process that was stopped meanwhile is done at once when it goes on.
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
        say(ended=mark, at=time.time_ns())

    def answer(self):
        return {}


HANDLERS = {"count": Count, "record": Record, "sleep": Sleep}


async def supply(adapter):
    commands = Commands()
    await adapter.connect()
    say(ready=True)
    while (line := await commands.next()) != "stop":
        wanted, moment = int(line), time.time_ns()
        for first in range(0, wanted, 1000):
            await adapter.many([payload(moment + first + i) for i in range(min(1000, wanted - first))])
        say(supplied=wanted)


async def produce(adapter):
    commands = Commands()
    await adapter.connect()
    say(ready=True)
    while (line := await commands.next()) != "stop":
        rate, seconds = (float(word) for word in line.split())
        start, latest, calls = time.monotonic(), 0.0, []
        for i in range(int(rate * seconds)):
            due = start + i / rate
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            latest = max(latest, time.monotonic() - due)
            began = time.time_ns()
            await adapter.one(payload(began))
            calls.append(time.time_ns() - began)
        say(produced=int(rate * seconds), latest_s=latest, call_ns=sorted(calls)[len(calls) // 2] if calls else 0)


async def worker(adapter):
    commands = Commands()
    handler = HANDLERS[adapter.options["handler"]](adapter)
    adapter.handle = handler
    stop = asyncio.Event()
    say(ready=True)
    if await commands.next() != "go":
        return
    say(started=time.time_ns())
    work = asyncio.create_task(adapter.work(stop))
    while True:
        asked = asyncio.create_task(commands.next())
        await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            asked.cancel()
            work.result()
            raise RuntimeError("the worker ended by itself")
        if asked.result() == "stop":
            break
        say(**handler.answer())
    stop.set()
    await asyncio.wait_for(work, 30)
    say(stopped=True)


async def rescue(adapter):
    commands = Commands()
    await adapter.connect()
    say(ready=True)
    while await commands.next() != "stop":
        await adapter.rescue()
        say(rescued=True)


async def main(kind):
    mode, options = sys.argv[1], json.loads(sys.argv[2])
    adapter = kind(options)
    if mode == "setup":
        await adapter.install()
        say(installed=True)
    else:
        await {"supply": supply, "produce": produce, "worker": worker, "rescue": rescue}[mode](adapter)


def run(kind):
    """The adapter's whole program, on uvloop where the library's own worker uses it."""
    if getattr(kind, "uvloop", False):
        import uvloop

        uvloop.run(main(kind))
    else:
        asyncio.run(main(kind))
    # Threads of libraries and of standard input must not keep the process.
    sys.stdout.flush()
    os._exit(0)
