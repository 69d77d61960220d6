"""What was measured, as Markdown, and which of the bars are met."""
import os
import platform
import time
from statistics import median

import statement
from engines import described
from latency import RATES
from tables import bar_table, markdown


def processor():
    for line in open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown processor"


def text(engines, version, repetitions, found, sections, problems, quick):
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {cores} cores for server, workers and producers together, {platform.system()} "
        f"{platform.machine()}, PostgreSQL {version}; fsync, synchronous_commit and autovacuum on; load average before the report "
        f"{os.getloadavg()[0]:.1f}; {repetitions} repetition{'s' if repetitions > 1 else ''} in turn"
        + (", medians." if repetitions > 1 else ".") + (" **A smoke run: the figures say little.**" if quick else ""),
        "Peers, from PyPI: " + (", ".join(engine.requirements[0] for engine in engines if not engine.ours) or "none in this run") + ".",
    ]
    if "drain" in found:
        lines += ["", *drain_table(engines, found["drain"])]
    if "latency" in found:
        lines += ["", *latency_table(engines, found["latency"])]
    if "pinned" in found:
        lines += ["", *pinned_table(engines, found["pinned"])]
    if "zombie" in sections:
        lines += ["", *zombie_table(engines, found["zombie"])]
    if "rescue" in sections:
        lines += ["", *rescue_table(engines, found["rescue"])]
    if "idle" in found:
        lines += ["", *idle_table(engines, found["idle"])]
    bars = all_bars(engines, found)
    counted = [met for *_, met in bars if met is not None]
    lines += ["", *bar_table(bars), "", f"{sum(counted)} of {len(counted)} bars met, {len(bars) - len(counted)} not measured."]
    if problems:
        lines += ["", "What went wrong:", "", *[f"- {problem}" for problem in problems]]
    return "\n".join(lines)


def short(engine, problem="did not run"):
    return engine.problem.splitlines()[0][:90] if engine.problem else problem


def drain_table(engines, found):
    head = ["no-op drain, 256 B", "settings", "jobs", "jobs/s (range)", "server CPU µs/job", "client CPU µs/job", "WAL B/job",
            "commits/job", "history"]
    lines = []

    def line(name, setting, figures, history):
        low, high = min(figures["rates"]), max(figures["rates"])
        lines.append([
            name, setting, f"{figures['jobs']:,.0f}", f"**{figures['rate']:,.0f}** ({low:,.0f}–{high:,.0f})",
            f"{figures['server_us']:,.1f}", f"{figures['client_us']:,.1f}" if figures["client_us"] else "—", f"{figures['wal']:,.0f}",
            f"{figures['commits']:.3f}", history])

    for engine in engines:
        for name in ("default", "tuned"):
            setting = f"{name}: {described(getattr(engine, name))}"
            if figures := found.get((engine.name, name)):
                line(engine.name, setting, figures, engine.history)
            else:
                lines.append([engine.name, setting, short(engine, "failed, see below"), *["—"] * 6])
        for clients in statement.CLIENTS if engine.ours else ():
            if figures := found.get(("pgbench", clients)):
                line("pgbench, our statement", f"{clients} session{'s' * (clients > 1)}, {statement.BATCH} jobs a turn", figures, engine.history)
    return [
        "**Drain.** After a checkpoint the queue is filled, vacuumed and analysed; then one worker process drains it. The clock stops when the "
        "last job is durably done, counted by SQL. CPU is that of the whole server and of the worker process.", "", *markdown(head, lines)]


def latency_table(engines, found):
    head = ["pick-up, ms", "settings", "rate", "p50", "p95", "p99 (each repetition)", "p99.9", "max", "jobs"]
    lines = []
    for engine in engines:
        for rate in RATES:
            figures = found.get((engine.name, rate))
            if not figures:
                lines.append([engine.name, described(engine.quick), f"{rate}/s", short(engine, "failed, see below"), *["—"] * 5])
                continue
            each = ", ".join(f"{p99:.1f}" for p99 in figures["each"])
            lines.append([
                engine.name, described(engine.quick), f"{rate}/s", f"{figures['p50']:.2f}", f"{figures['p95']:.2f}",
                f"**{figures['p99']:.2f}** ({each})", f"{figures['p99.9']:.2f}", f"{figures['max']:.1f}", f"{figures['jobs']:,}"])
    return [
        "**Pick-up.** An idle worker, a producer in another process: from just before the enqueue call to the handler's start. Percentiles "
        "of all repetitions together.", "", *markdown(head, lines)]


def pinned_table(engines, found):
    head = ["pinned xmin", "snapshot held", "worked of it", "free", "pinned", "pinned of free (range)", "last quarter", "CPU µs/job free", "pinned", "of free",
            "dead rows free", "pinned"]
    lines = []
    for engine in engines:
        if got := found.get(engine.name):
            lines.append([
                engine.name, f"{got['held_s']:,.0f} s", f"{got['worked_s']:,.0f} s in {got['slices']}", f"{got['unpinned']:,.0f}/s",
                f"{got['pinned']:,.0f}/s",
                f"**{100 * got['ratio']:.0f} %** ({100 * min(got['ratios']):.0f}–{100 * max(got['ratios']):.0f})",
                f"{100 * got['last_ratio']:.0f} %", f"{got['cpu']:,.0f}", f"{got['pinned_cpu']:,.0f}",
                f"{100 * got['cpu_ratio']:.0f} %", *[f"{dead:,}" for dead in got["dead"]]])
        else:
            lines.append([engine.name, short(engine, "failed, see below"), *["—"] * 10])
    return [
        "**Pinned xmin.** Two databases on the server, filled and drained in alternating slices with tuned settings; in the pinned one a "
        "REPEATABLE READ reader keeps its snapshot from the first slice to the last. Ratios are medians of those of neighbouring slices. "
        "CPU is that of server and worker, with what the filling costs the server.",
        "", *markdown(head, lines)]


def zombie_table(engines, found):
    head = ["zombie", "jobs that a frozen worker held", "run again elsewhere", "late successes accepted while the second run went on"]
    lines = []
    for engine in engines:
        if figures := found.get(engine.name):
            verdict = "fences" if figures["accepted"] == 0 else "**accepts stale writes**"
            verdict = verdict if figures["again"] else "nothing was run again: not decided"
            lines.append([engine.name, f"{figures['trials']}", f"{figures['again']}", f"{figures['accepted']}, {verdict}"])
        else:
            lines.append([engine.name, short(engine, "failed, see below"), "—", "—"])
    return [
        "**Zombie.** Worker A is stopped (SIGSTOP) with jobs in hand, they are given to B, A goes on (SIGCONT) and reports success first. "
        "Recovery times are shortened; Procrastinate's retry is called by the test, as its manual tells users to. `make chaos` has 10,000 "
        "trials of ours.", "", *markdown(head, lines)]


def rescue_table(engines, found):
    head = ["SIGKILL, default settings", "until another worker has the job", "documented"]
    lines = []
    for engine in engines:
        times = found.get(engine.name)
        if times:
            got = ", ".join("not within 75 s" if seconds is None else f"{seconds:.1f} s" for seconds in times) + " (measured)"
        else:
            got = short(engine, "failed, see below") if engine.problem or engine.rescue_measured else "not measured"
        lines.append([engine.name, got, engine.rescue_documented])
    return markdown(head, lines)


def idle_table(engines, found):
    head = ["idle", "CPU of its process", "CPU of its sessions", "statements/s", "sessions"]
    lines = []
    services = [name for name in found if name not in [engine.name for engine in engines]]
    for name, problem in [(engine.name, short(engine, "failed, see below")) for engine in engines] + [(name, "") for name in services]:
        if figures := found.get(name):
            lines.append([
                name, f"{100 * figures['client']:.2f} %", f"{100 * figures['server']:.2f} %", f"{figures['statements']:.1f}",
                f"{figures['sessions']}"])
        else:
            lines.append([name, problem, *["—"] * 3])
    return markdown(head, lines)


def all_bars(engines, found):
    """(what, wanted, got, whether it is met) of every bar of ours; None where it was not measured."""
    bars = []
    ours = next((engine.name for engine in engines if engine.ours), None)
    peers = [engine.name for engine in engines if not engine.ours]

    def bar(what, wanted, got, met):
        bars.append((what, wanted, "not measured" if got is None else got, None if got is None else met))

    drained = found.get("drain", {})
    mine = drained.get((ours, "tuned"))
    others = {key: figures["rate"] for key, figures in drained.items() if key[0] in peers}
    for clients in statement.CLIENTS:
        bare = drained.get(("pgbench", clients))
        # The median of the repetitions' ratios: the two ran in the same minute, the repetitions did not.
        share = median(a / b for a, b in zip(mine["rates"], bare["rates"])) if mine and bare else None
        what = f"drain: of pgbench running the same statement in {clients} session{'s' * (clients > 1)}"
        bar(what, "≥ 85 %", None if share is None else f"{100 * share:.0f} %", (share or 0) >= 0.85)
    best = max(others, key=others.get, default=None)
    times = mine["rate"] / others[best] if mine and best else None
    bar("drain: over the best peer", "≥ 2×", None if times is None else f"{times:.1f}× {best[0]} ({best[1]})", (times or 0) >= 2)
    cpu = mine["server_us"] + mine["client_us"] if mine else None
    bar("drain: CPU a job, server and client", "≤ 25 µs", None if cpu is None else f"{cpu:.1f} µs", (cpu or 99) <= 25)
    bar("drain: WAL a job", "≤ 750 B", f"{mine['wal']:.0f} B" if mine else None, bool(mine) and mine["wal"] <= 750)
    for rate in RATES:
        picked = found.get("latency", {})
        p99 = picked.get((ours, rate), {}).get("p99")
        bar(f"pick-up p99 at {rate}/s", "≤ 5 ms", None if p99 is None else f"{p99:.1f} ms", (p99 or 99) <= 5)
        theirs = {name: picked[name, rate]["p99"] for name in peers if (name, rate) in picked}
        beside = ", ".join(f"{name} {theirs[name]:.1f}" for name in sorted(theirs, key=theirs.get))
        got = None if p99 is None or not theirs else f"{p99:.1f} ms; {beside}"
        bar(f"pick-up p99 at {rate}/s: below every peer", "yes", got, got is not None and p99 < min(theirs.values()))
    held = found.get("pinned", {}).get(ours)
    seconds = f"{held['held_s']:.0f} s" if held else "ten minutes"
    bar(f"rate with xmin pinned for {seconds}, of the unpinned", "≥ 95 %",
        f"{100 * held['ratio']:.0f} % (last quarter {100 * held['last_ratio']:.0f} %)" if held else None, bool(held) and held["ratio"] >= 0.95)
    zombie = found.get("zombie", {}).get(ours)
    beside = "".join(
        f"; {name} {theirs['accepted']} of {theirs['again']}" for name in peers if (theirs := found.get("zombie", {}).get(name)))
    bar("zombie: stale successes accepted", "0", f"{zombie['accepted']} of {zombie['again']}{beside}" if zombie else None,
        bool(zombie) and zombie["accepted"] == 0 and zombie["again"] > 0)
    times = found.get("rescue", {}).get(ours)
    bar("SIGKILL: running elsewhere", "≤ 3 s", ", ".join("never" if t is None else f"{t:.1f} s" for t in times) if times else None,
        bool(times) and all(t is not None and t <= 3 for t in times))
    rest = found.get("idle", {})
    mine = {"worker": rest[ours]} if ours in rest else {}
    mine |= {name.removeprefix("our ").removesuffix(" service"): figures for name, figures in rest.items() if name.startswith("our ")}
    for what, key, wanted, limit, shown in (
            ("CPU", "client", "≤ 0.2 %", 0.002, lambda share: f"{100 * share:.2f} %"),
            ("statements a second", "statements", "≤ 2", 2, lambda count: f"{count:.1f}")):
        got = ", ".join(f"{name} {shown(figures[key])}" for name, figures in mine.items())
        bar(f"idle processes: {what}", wanted, got or None, all(figures[key] <= limit for figures in mine.values()))
    # Those that take hours or need a trainer have commands of their own.
    bars.append(("crash matrix: violations of an invariant", "0", "`make chaos`; a short form in `make test`", None))
    bars.append(("training job killed at 20 random points: weights", "bit-identical", "`make chaos`", None))
    return bars
