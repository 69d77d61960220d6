"""A real foretaste-ingest over a private PostgreSQL, and the pairs that are posted to it."""
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "Tests/Performance/queue"), str(ROOT / "Tests/Performance")]
from processes import Child, end  # noqa: E402
from server import Server  # noqa: E402

DATABASE = "ingest"


def line(source, key, number):
    """A pair of a kilobyte in all, the newline counted."""
    def side(name):
        digest = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
        return {"url": f"http://127.0.0.1:1/latents/{digest[:2]}/{digest}.safetensors", "sha256": digest}

    document = {
        "source": source, "external_id": key, "prompt": "", "dimension": "vq", "outcome": "ab"[number % 2], "rater": f"rater-{number % 50}",
        "a": side("a"), "b": side("b"),
    }
    document["prompt"] = ("A red kite over a grey sea, seen from the pier. " * 30)[: 1023 - len(json.dumps(document))]
    return json.dumps(document).encode() + b"\n"


class Service:
    """The service and its server; both can be killed and started again."""

    def __init__(self, binary):
        if not binary.exists():
            raise SystemExit(f"bench ingest: {binary} is not there: make build")
        self.binary = binary
        self.server = Server()
        self.data = Path(tempfile.mkdtemp(prefix="foretaste-bench-ingest-"))
        self.child = None

    def __enter__(self):
        try:
            self.server.start()
            self.server.create(DATABASE)
            for path in sorted((ROOT / "migrations").glob("*.sql")):
                self.server.rows(DATABASE, path.read_text().split("-- migrate:down")[0])
            self.server.leave(DATABASE)
            self.start()
            for _ in range(200):
                if int(self.one("select count(*) from queue.queue where name = 'verify_preference'")):
                    break
                time.sleep(0.05)
            # Verification is what happens after a pair was accepted.
            self.rows("select queue.pause('verify_preference')")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.child:
            end(self.child.process)
        self.server.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    def rows(self, sql):
        return self.server.rows(DATABASE, sql)

    def one(self, sql):
        return self.server.one(DATABASE, sql)

    def start(self):
        """Starts the service and waits until it answers."""
        ready = self.data / "ready.json"
        ready.unlink(missing_ok=True)
        log = self.data / "log"
        self.child = Child(
            [self.binary], log=log, env=os.environ | {
                "DATABASE_URL": self.server.url(DATABASE), "FORETASTE_DATA": str(self.data), "FORETASTE_INGEST_LISTEN": "127.0.0.1:0",
                "FORETASTE_INGEST_READY_FILE": str(ready), "FORETASTE_ARTIFACTS_ALLOW": "http://127.0.0.1:1/",
                "FORETASTE_LOG_LEVEL": "error", "FORETASTE_AUTHENTICATION": "off"})
        for _ in range(1200):
            if ready.exists() or self.child.process.poll() is not None:
                break
            time.sleep(0.025)
        if not ready.exists():
            raise SystemExit(f"bench ingest: the service does not start: {log.read_text()[-2000:]}")
        self.address = urlsplit(json.loads(ready.read_text())["url"]).netloc
        self.wait_ready()

    def wait_ready(self, patience=60):
        deadline = time.monotonic() + patience
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"bench ingest: the service is not ready: {(self.data / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self):
        """SIGKILL: no word of farewell."""
        self.child.process.send_signal(signal.SIGKILL)
        self.child.process.wait()

    @property
    def pid(self):
        return self.child.process.pid

    def cpu(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what="VmRSS"):
        """In MiB."""
        rows = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith(what)).split()[1]) / 1024

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))
