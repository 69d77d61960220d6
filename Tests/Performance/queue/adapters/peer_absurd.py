"""Absurd's Python SDK, its schema by absurdctl. Settings: arguments of AsyncAbsurd.start_worker."""
import asyncio
import os
import subprocess
import sys

from absurd_sdk import AsyncAbsurd
from adapter import Adapter, run


class Library(Adapter):
    async def install(self):
        control = os.path.join(os.path.dirname(sys.executable), "absurdctl")
        done = subprocess.run([control, "init", "-d", self.dsn], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip())
        await AsyncAbsurd(self.dsn, queue_name=self.queue).create_queue(self.queue)

    async def connect(self):
        self.client = AsyncAbsurd(self.dsn, queue_name=self.queue)

    async def many(self, payloads):
        # There is no bulk call: one transaction for all of them.
        await self.client._ensure_connected()
        async with self.client._conn.transaction():
            for p in payloads:
                await self.client.spawn("noop", p, queue=self.queue)

    async def one(self, argument):
        await self.client.spawn("noop", argument, queue=self.queue)

    async def work(self, stop):
        client = AsyncAbsurd(self.dsn, queue_name=self.queue)

        @client.register_task("noop", queue=self.queue)
        async def noop(params, context):
            await self.handle(lambda: params)

        running = asyncio.create_task(client.start_worker(**self.setting))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        client.stop_worker()
        await running


run(Library)
