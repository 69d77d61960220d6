"""Markdown of what was measured."""


def markdown(head, lines):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] + ["| " + " | ".join(line) + " |" for line in lines]


def duration(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def times(ratio):
    return "—" if ratio is None else f"{ratio:.2f}×"


def replace(page, what, text):
    """Puts `text` between the page's marks for `what`."""
    old = page.read_text()
    start, end = f"<!-- bench {what} -->\n", "<!-- end -->"
    head, found, rest = old.partition(start)
    body, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no place for the table: {start.strip()} … {end}")
    page.write_text(head + start + "\n" + text + "\n\n" + end + tail)


def counted(threads):
    return f"{threads} threads" if threads > 1 else "one thread"


def works(results):
    """Ours beside PyTorch's, a line a row."""
    lines = []
    for row, r in results:
        seconds, ratio, memory = r["seconds"], r["ratio"], r["memory"]

        def theirs(name):
            return f"{duration(seconds[name])}, {times(ratio.get(name))}" if name in seconds else "—"

        tiles = "—"
        if "tiles" in seconds:
            over = ratio.get("eager over tiles")
            tiles = duration(seconds["tiles"]) + (f", {times(over)} eager" if over else "")
        space = f"{memory['ours'] / 2**20:.0f}"
        if "memory_ratio" in r:
            space += f" / {memory['eager'] / 2**20:.0f}, {r['memory_ratio']:.2f}×"
        lines.append([
            r["name"], str(r["threads"]), duration(seconds["ours"]), f"{r['gflops']:.0f}", f"{r['best_sgemm']:.0f}",
            f"{100 * r['of_sgemm']:.0f} %", theirs("eager"), theirs("compile"), tiles, space,
        ])
    head = [
        "work", "threads", "ours", "GFLOP/s", "best sgemm", "of it", "PyTorch eager", "torch.compile", "ours, bfloat16x3",
        "peak MiB, ours / eager",
    ]
    return markdown(head, lines)


def bars(results, threads, startup, amd):
    """(what, wanted, got, whether it is met) of every bar; None where it was not measured."""
    found = []

    def bar(what, wanted, got, met):
        found.append((what, wanted, "not measured" if got is None else got, None if got is None else met))

    for row, r in results:
        if row.sgemm_bar:
            share = r["of_sgemm"]
            bar(f"{row.name}: share of sgemm", f"≥ {100 * row.sgemm_bar:.0f} %", f"{100 * share:.0f} %", share >= row.sgemm_bar)
        if row.eager_bar:
            wanted, got = row.eager_bar[0 if amd else 1], r["ratio"].get("eager")
            bar(f"{row.name}: over eager", f"≥ {wanted}×", times(got) if got else None, (got or 0) >= wanted)
        if row.compile_bar:
            got = r["ratio"].get("compile")
            bar(f"{row.name}: over torch.compile", f"≥ {row.compile_bar}×", times(got) if got else None, (got or 0) >= row.compile_bar)
        if row.memory_bar:
            got = r.get("memory_ratio")
            bar(f"{row.name}: peak memory", f"≤ {row.memory_bar}×", times(got) if got else None, (got or 9) <= row.memory_bar)
    for r in threads:
        bar(f"{r['name']}: two threads over one", "≥ 1.85×", times(r["ratio"]), r["ratio"] >= 1.85)
    if startup:
        got = startup["foretaste"]["wall_ms"]
        bar("demo model: process start to first result", f"≤ {startup['bar_ms']} ms", f"{got:.0f} ms", got <= startup["bar_ms"])
    return found


def bar_table(found):
    words = {True: "met", False: "**missed**", None: "—"}
    return markdown(["bar", "wanted", "got", ""], [[what, wanted, got, words[met]] for what, wanted, got, met in found])


def thread_table(results):
    return markdown(
        ["work, ours", "one thread", "two threads", "ratio"],
        [[r["name"], duration(r["one"]), duration(r["two"]), times(r["ratio"])] for r in results])


def startup_text(startup):
    ours, peer = startup["foretaste"], startup["peer"]
    text = "From `exec` to the result on disk, `foretaste backbone forward` on the demo's model: "
    return text + f"{ours['wall_ms']} ms (median of {ours['runs']})" + (f"; Python with diffusers: {peer['wall_ms']} ms." if peer else ".")


def scaling_table(found, threads):
    first = found[0]
    lines = []
    for r in found:
        rate = r["flops"] / r["seconds"]
        lines.append([
            f"{r['tokens']:,}", f"{r['flops'] * 1e-9:,.0f}", f"{r['flops'] / first['flops']:.1f}×", duration(r["seconds"]),
            f"{r['seconds'] / first['seconds']:.1f}×", f"{rate * 1e-9:.0f}", f"{r['bytes'] / 2**20:.0f}",
            "—" if r is first else f"{(r['bytes'] - first['bytes']) / (r['tokens'] - first['tokens']) / 1024:.0f}",
        ])
    head = ["tokens", "GFLOP", "over 1k", f"time, {counted(threads)}", "over 1k", "GFLOP/s", "peak MiB", "KiB a token beyond 1k"]
    return markdown(head, lines)
