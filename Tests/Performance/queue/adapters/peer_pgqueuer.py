"""PgQueuer with asyncpg. Settings: arguments of PgQueuer.run."""
import json
from datetime import timedelta

import asyncpg
from adapter import Adapter, run
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries


class Library(Adapter):
    uvloop = True  # As `pgq run` does.

    async def install(self):
        connection = await asyncpg.connect(self.dsn)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def connect(self):
        self.queries = Queries(AsyncpgDriver(await asyncpg.connect(self.dsn)))

    async def many(self, payloads):
        n = len(payloads)
        await self.queries.enqueue(["noop"] * n, [json.dumps(p).encode() for p in payloads], [0] * n)

    async def one(self, argument):
        await self.queries.enqueue("noop", json.dumps(argument).encode())

    async def work(self, stop):
        app = PgQueuer(AsyncpgDriver(await asyncpg.connect(self.dsn)))

        @app.entrypoint("noop")
        async def noop(job):
            await self.handle(lambda: json.loads(job.payload))

        settings = dict(self.setting)
        for name in ("heartbeat_timeout", "dequeue_timeout"):
            if name in settings:
                settings[name] = timedelta(seconds=settings[name])
        import asyncio

        running = asyncio.create_task(app.run(**settings))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        app.shutdown.set()
        await running


run(Library)
