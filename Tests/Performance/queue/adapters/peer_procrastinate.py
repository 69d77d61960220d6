"""Procrastinate with psycopg. Settings: arguments of App.run_worker_async."""
import asyncio

import procrastinate
from adapter import Adapter, run


class Library(Adapter):
    def __init__(self, options):
        super().__init__(options)
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.dsn))

        @self.app.task(name="noop", queue=self.queue)
        async def noop(t, pad):
            await self.handle(lambda: {"t": t})

        self.noop = noop

    async def install(self):
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()

    async def connect(self):
        await self.app.open_async()

    async def many(self, payloads):
        await self.noop.batch_defer_async(*payloads)

    async def one(self, argument):
        await self.noop.defer_async(**argument)

    async def work(self, stop):
        async with self.app.open_async():
            running = asyncio.create_task(
                self.app.run_worker_async(queues=[self.queue], install_signal_handlers=False, **self.setting))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def rescue(self):
        """The periodic task of its manual: jobs of stalled workers are retried."""
        manager = self.app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self.options["stalled"]):
            await manager.retry_job(job)


run(Library)
