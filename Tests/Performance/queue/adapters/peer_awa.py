"""awa's Python bindings. Settings: workers, claimers, and arguments of AsyncClient.start."""
from dataclasses import dataclass

from adapter import Adapter, run
from awa import AsyncClient


@dataclass
class Noop:
    t: int
    pad: str


class Library(Adapter):
    async def install(self):
        client = AsyncClient(self.dsn)
        await client.migrate()
        await client.install_queue_storage()

    async def connect(self):
        self.client = AsyncClient(self.dsn)

    async def many(self, payloads):
        await self.client.enqueue_many_copy([Noop(**p) for p in payloads], queue=self.queue)

    async def one(self, argument):
        await self.client.insert(Noop(**argument), queue=self.queue)

    async def work(self, stop):
        settings = dict(self.setting)
        queue = settings.pop("queue", self.queue)
        client = AsyncClient(self.dsn, max_connections=settings.pop("max_connections", 10))

        @client.task(Noop, queue=queue)
        async def noop(job):
            await self.handle(lambda: {"t": job.args.t})

        description = {"name": queue, "max_workers": settings.pop("workers", 50)}
        for name in ("claimers", "claim_batch_size"):
            if name in settings:
                description[name] = settings.pop(name)
        await client.start([description], **settings)
        await stop.wait()
        await client.shutdown(5000)


run(Library)
