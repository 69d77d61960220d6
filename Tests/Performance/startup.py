#!/usr/bin/env python3
"""How long a process takes from its start to a result: `foretaste backbone forward` on the demo's generator, one clip, from exec to exit with
the result on disk. Where PEER_PYTHON names a Python with torch and diffusers, the same from a fresh interpreter. Prints one JSON line.

    PEER_PYTHON=venv/bin/python Tests/Performance/startup.py [RUNS] [FORETASTE_BINARY]

Runs of both alternate, so that a busy machine is busy for both; the first of each is not counted (files come from the disk). `wall_ms` is
what a person waits, `cpu_ms` what all threads took, which other work on the machine changes little. The results are compared: `difference` is
‖ours − theirs‖ / ‖theirs‖.
"""
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "Shared" / "DemoWorld" / "Resources" / "generator"
PEER = """
import sys
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
model = WanTransformer3DModel.from_pretrained(sys.argv[1])
with torch.no_grad():
    sample = model(**load_file(sys.argv[2])).sample
save_file({"sample": sample.contiguous()}, sys.argv[3])
"""


def write_inputs(path):
    """One clip of noise, written without any library: a safetensors file is a length, a JSON header and the data."""
    shapes = {"hidden_states": [1, 20, 6, 8, 8], "encoder_hidden_states": [1, 4, 64], "timestep": [1]}
    header, data, state = {}, b"", 1
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        values = []
        for _ in range(count):
            state = (1103515245 * state + 12345) % 2**31
            values.append(700.0 if name == "timestep" else 3.4 * (state / 2**31 - 0.5))
        part = struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_sample(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    entry = json.loads(raw[8 : 8 + length])["sample"]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    return struct.unpack(f"<{(end - begin) // 4}f", raw[begin:end])


def once(command, output):
    output.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0 or not output.exists():
        sys.exit(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return 1000 * wall, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def summary(times):
    wall, cpu = zip(*times)
    return {
        "runs": len(times),
        "wall_ms": round(statistics.median(wall), 1),
        "wall_min_ms": round(min(wall), 1),
        "cpu_ms": round(statistics.median(cpu), 1),
    }


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    binary = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / ".build" / "release" / "foretaste"
    if not binary.exists():
        sys.exit(f"{binary} is not there: swift build -c release")
    python = os.environ.get("PEER_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_inputs(folder / "in.safetensors")
        ours_out, peer_out = folder / "ours.safetensors", folder / "peer.safetensors"
        ours = [
            str(binary), "backbone", "forward", str(GENERATOR), "--input", str(folder / "in.safetensors"), "--output", str(ours_out),
        ]
        peer = [python, "-c", PEER, str(GENERATOR), str(folder / "in.safetensors"), str(peer_out)]
        # A peer takes seconds: a few runs tell enough.
        peer_runs = min(runs, 5) if python else 0
        ours_times, peer_times = [], []
        for index in range(runs + 1):
            ours_times.append(once(ours, ours_out))
            if python and index <= peer_runs:
                peer_times.append(once(peer, peer_out))
        result = {"what": "process start to forward pass on disk", "bar_ms": 150, "foretaste": summary(ours_times[1:])}
        if python:
            a, b = read_sample(ours_out), read_sample(peer_out)
            result["peer"] = summary(peer_times[1:])
            result["difference"] = (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5
        else:
            result["peer"] = None
        print(json.dumps(result))


main()
