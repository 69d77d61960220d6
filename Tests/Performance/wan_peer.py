"""The same work as WanBench in PyTorch with diffusers' own WanTransformer3DModel. Prints one JSON line.

Needs torch and diffusers from PyPI. Usage: wan_peer.py GENERATOR_FOLDER THREADS [compile]
"""
import json
import statistics
import sys
import time

import torch
from diffusers import WanTransformer3DModel

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
clips = 32
model = WanTransformer3DModel.from_pretrained(folder)
run = torch.compile(model) if len(sys.argv) > 3 and sys.argv[3] == "compile" else model
g = torch.Generator().manual_seed(1)
latents = torch.randn(clips, 20, 6, 8, 8, generator=g)
prompts = torch.randn(clips, 4, 64, generator=g)
timestep = torch.full((clips,), 700.0)


def forward():
    with torch.no_grad():
        run(hidden_states=latents, timestep=timestep, encoder_hidden_states=prompts)


def training_step():
    model.zero_grad(set_to_none=True)
    run(hidden_states=latents, timestep=timestep, encoder_hidden_states=prompts).sample.square().mean().backward()


def seconds(body):
    body()
    times = []
    for _ in range(7):
        started = time.perf_counter()
        body()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


print(json.dumps({"threads": threads, "clips": clips, "forward_s": seconds(forward), "training_s": seconds(training_step)}))
