"""Runs rows: rounds in which every side has its turn, so that what disturbs one disturbs the others."""
import math
import statistics
import time

from sides import SideFailed


def turn(side, repeats, clock):
    """The median time of some runs in a row, and the last answer."""
    answers = [side.ask("run") for _ in range(repeats)]
    return statistics.median(a[clock] for a in answers), answers[-1]


def run_row(row, sides, clock, rounds, wants_compile, has_tiles):
    """A dictionary of what was measured; a peer that fails is named under `why`."""
    path = sides.model(row.model, row.make)
    names = ["ours"] + (["tiles"] if row.tiles and has_tiles else [])
    if sides.versions:
        names += ["eager"] + (["compile"] if row.compile and wants_compile else [])
    running = {name: sides.start(name, row.options(path), row.threads) for name in names}
    result = {"name": row.name, "threads": row.threads, "why": {}, "times": {n: [] for n in names}, "sgemm": [], "memory": {}, "check": {}}

    def drop(name, error):
        if name == "ours":
            raise error
        result["why"][name] = str(error)
        running.pop(name).close(kill=True)

    try:
        for name in names:
            try:
                result["machine" if name == "ours" else name] = running[name].answer()
            except SideFailed as error:
                drop(name, error)
        # The first turn of each is not counted: pages are fetched, and torch.compile compiles.
        repeats = 1
        for index in range(rounds + 1):
            for name in list(running) if index % 2 == 0 else list(running)[::-1]:
                try:
                    seconds, answer = turn(running[name], repeats if index else 1, clock)
                except SideFailed as error:
                    drop(name, error)
                    continue
                if index == 0:
                    result["check"][name] = answer["check"]
                else:
                    result["times"][name].append(seconds)
                if name == "ours":
                    result["flops"] = answer["flops"]
                    repeats = repeats if index else min(8, max(1, math.ceil(0.15 / seconds)))
                time.sleep(0.02)
            if index == 1:
                # Every side has done its work twice, and ours has not yet made matrices to compare itself with.
                result["memory"] = {name: side.ask("memory")["bytes"] for name, side in running.items()}
            if index:
                # Among the works, so that the machine is the same; the best is what it can do.
                result["sgemm"].append(running["ours"].ask("sgemm")[clock])
    finally:
        for side in running.values():
            side.close()
    summarise(result)
    return result


def summarise(result):
    """Medians, and medians of the rounds' ratios."""
    ours = result["times"]["ours"]
    result["seconds"] = {name: statistics.median(times) for name, times in result["times"].items() if times}
    result["ratio"] = {
        name: statistics.median(b / a for a, b in zip(ours, times))
        for name, times in result["times"].items()
        if name != "ours" and len(times) == len(ours)
    }
    tiles, eager = result["times"].get("tiles"), result["times"].get("eager")
    if tiles and eager:
        result["ratio"]["eager over tiles"] = statistics.median(b / a for a, b in zip(tiles, eager))
    result["gflops"] = result["flops"] / result["seconds"]["ours"] * 1e-9
    result["best_sgemm"] = max(result["sgemm"])
    result["of_sgemm"] = result["gflops"] / result["best_sgemm"]
    mine = result["check"]["ours"]
    result["differs"] = [
        name for name, theirs in result["check"].items() if not abs(theirs - mine) <= 1e-3 * max(abs(mine), 1e-30)
    ]
    if "eager" in result["memory"]:
        result["memory_ratio"] = result["memory"]["ours"] / result["memory"]["eager"]


def run_threads(row, sides, clock, rounds):
    """Ours on two threads and on one, in turn, in one process."""
    side = sides.start("ours", row.options(sides.model(row.model, row.make)), 2)
    ratios, seconds = [], {1: [], 2: []}
    try:
        side.answer()
        repeats = 1
        for index in range(rounds + 1):
            for threads in (1, 2) if index % 2 else (2, 1):
                side.ask(f"threads {threads}")
                spent, _ = turn(side, repeats, clock)
                if index:
                    seconds[threads].append(spent)
                repeats = repeats if index else min(8, max(1, math.ceil(0.15 / spent)))
            if index:
                ratios.append(seconds[1][-1] / seconds[2][-1])
    finally:
        side.close()
    return {
        "name": row.name, "one": statistics.median(seconds[1]), "two": statistics.median(seconds[2]), "ratio": statistics.median(ratios)
    }


def run_scaling(sides, threads, clock, longest):
    """One Wan block of width 1536 over more and more tokens; a fresh process each, for its memory."""
    path = sides.model("wan1", ("wan", "1"))
    found, frames = [], 1
    while frames * 1024 <= longest:
        options = ["--model", path, "--pass", "forward", "--grid", f"{frames}x64x64", "--batch", 1, "--text", 512]
        side = sides.start("ours", options, threads)
        try:
            side.answer()
            # Short ones are warmed up and repeated; what fetching pages costs a long one is below a hundredth.
            times = [side.ask("run") for _ in range(4 if frames <= 4 else 2 if frames <= 8 else 1)]
            timed = times[1:] or times
            found.append({
                "tokens": frames * 1024, "flops": times[0]["flops"], "seconds": statistics.median(t[clock] for t in timed),
                "bytes": side.ask("memory")["bytes"],
            })
        finally:
            side.close()
        last = found[-1]
        print(f"  {last['tokens']:>6} tokens  {last['seconds']:8.2f} s  {last['flops'] / last['seconds'] * 1e-9:6.1f} GFLOP/s", flush=True)
        frames *= 2
    return found
