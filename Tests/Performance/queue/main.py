"""Our job queue beside others on PostgreSQL, on this machine, in this run, in turn: `Tests/Performance/bench queue`.

One private PostgreSQL (fsync, synchronous_commit and autovacuum on), one configuration for all; every run of every engine has a fresh
database. The peers come from PyPI into .build/queue-peers, in the versions named in engines.py; each is driven through its own public calls
by one Python file in adapters/, ours by the Swift program QueueBench, which speaks the same lines. A peer that cannot be installed or
fails is named with its error.
"""
import argparse
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import drain  # noqa: E402
import frozen  # noqa: E402
import idle  # noqa: E402
import latency  # noqa: E402
import pinned  # noqa: E402
import report  # noqa: E402
import tables  # noqa: E402
from engines import ROOT, all_engines, find_ours, install_peers  # noqa: E402
from server import Server  # noqa: E402

SECTIONS = ("drain", "latency", "pinned", "zombie", "rescue", "idle")


def arguments():
    parser = argparse.ArgumentParser(prog="bench queue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: one repetition, few jobs, short times")
    parser.add_argument("--only", default="", help=f"sections, parted by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--engines", default="", help="engines whose names begin so, parted by commas")
    parser.add_argument("--repetitions", type=int, help="of drain and pick-up (3)")
    parser.add_argument("--minutes", type=float, help="how long the snapshot is held for ours (10)")
    parser.add_argument("--peer-minutes", type=float, help="and for each peer (1)")
    parser.add_argument("--output", help="write the Markdown here too")
    parser.add_argument("--into", type=Path, help="put the Markdown between <!-- bench queue --> and <!-- end --> of this page")
    parser.add_argument("--raw", help="write everything measured here, as JSON")
    parser.add_argument("--build", type=Path, default=ROOT / ".build" / "release", help="where QueueBench is")
    return parser.parse_args()


def chosen(options):
    sections = [word.strip() for word in options.only.split(",") if word.strip()] or list(SECTIONS)
    if unknown := set(sections) - set(SECTIONS):
        sys.exit(f"bench queue: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    engines = all_engines()
    words = [word.strip().lower() for word in options.engines.split(",") if word.strip()]
    if words:
        engines = [engine for engine in engines if any(engine.name.lower().startswith(word) for word in words)]
    return sections, engines


def prepare(engines, server, progress, problems):
    """Those engines that can run: their schemas are in templates."""
    able = []
    for engine in engines:
        if not engine.problem:
            try:
                engine.install(server)
                able.append(engine)
                continue
            except Exception as error:
                engine.problem = f"schema: {error}"
        problems.append(f"{engine.name}: {engine.problem}")
        progress(problems[-1])
    return able


def frozen_ones(engines, server, sections, quick, progress, problems):
    """Zombie and rescue wait more than they work, so all engines do it at once."""
    found = {"zombie": {}, "rescue": {}}

    def attempt(section, engine):
        try:
            if section == "zombie":
                rounds = (1 if quick else 3) if engine.ours else 1
                parts = [frozen.zombie(engine, server, (50 if quick else 200) if engine.ours else 5) for _ in range(rounds)]
                result = {key: sum(part[key] for part in parts) for key in parts[0]}
            else:
                result = [frozen.rescue(engine, server) for _ in range((1 if quick else 3) if engine.ours else 1)]
            found[section][engine.name] = result
            progress(f"{section} {engine.name}: {result}")
        except Exception as error:
            problems.append(f"{section}, {engine.name}: {error}")
            progress(problems[-1])

    works = [("zombie", engine) for engine in engines if "zombie" in sections]
    works += [("rescue", engine) for engine in engines if "rescue" in sections and engine.rescue_measured]
    with ThreadPoolExecutor(max_workers=max(1, len(works))) as pool:
        list(pool.map(lambda work: attempt(*work), works))
    return found


def run(options, progress):
    sections, engines = chosen(options)
    problems, found = [], {}
    install_peers(engines, progress)
    for engine in engines:
        if engine.ours:
            find_ours(engine, options.build)
    repetitions = options.repetitions or (1 if options.quick else 3)
    scale = 0.1 if options.quick else 1
    pinned_s = 60 * (options.minutes or (0.5 if options.quick else 10))
    peer_pinned_s = 60 * (options.peer_minutes or (0.3 if options.quick else 1))
    server = Server()
    try:
        server.start()
        able = prepare(engines, server, progress, problems)
        if "drain" in sections:
            found["drain"] = drain.measure(able, server, repetitions, scale, progress, problems)
        if "latency" in sections:
            found["latency"] = latency.measure(able, server, repetitions, 2 if options.quick else 5, progress, problems)
        if "pinned" in sections:
            rates = {name: figures["rate"] for (name, setting), figures in found.get("drain", {}).items() if setting == "tuned"}
            found["pinned"] = pinned.measure(able, server, rates, pinned_s, peer_pinned_s, progress, problems)
        found |= frozen_ones(able, server, sections, options.quick, progress, problems)
        if "idle" in sections:
            found["idle"] = idle.measure(able, server, options.build, 5 if options.quick else 30, progress, problems)
        return report.text(engines, server.version, repetitions, found, sections, problems, options.quick), found, problems
    finally:
        server.stop()


def main():
    options = arguments()
    # So that everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench queue: told to stop"))
    began = time.monotonic()

    def progress(text):
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    text, found, problems = run(options, progress)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n")
    if options.into:
        tables.replace(options.into, "queue", text)
    if options.raw:
        Path(options.raw).write_text(json.dumps(raw(found) | {"problems": problems}, indent=1) + "\n")
    progress("done")


def raw(found):
    """With keys that JSON has."""
    def plain(value):
        if isinstance(value, dict):
            return {" ".join(map(str, key)) if isinstance(key, tuple) else str(key): plain(part) for key, part in value.items()}
        return value

    return plain(found)


if __name__ == "__main__":
    main()
