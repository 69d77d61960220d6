"""Writes Tests/Diffusion/Fixtures/schedules.json: diffusers' own sigmas, both ways of asking for them.

Run: python Tests/Reference/schedule_fixtures.py    (pip install diffusers torch)
"""
import json
import pathlib

import numpy
from diffusers import FlowMatchEulerDiscreteScheduler

rows = []
for steps, shift in [(1, 1.0), (4, 5.0), (10, 3.0), (20, 3.0), (40, 5.0), (50, 1.0)]:
    for spacing in ("uniform", "trainingTable"):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        if spacing == "uniform":
            scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps))
        else:
            scheduler.set_timesteps(steps)
        rows.append(dict(steps=steps, shift=shift, spacing=spacing, sigmas=scheduler.sigmas.tolist(), timesteps=scheduler.timesteps.tolist()))
path = pathlib.Path(__file__).parent.parent / "Diffusion/Fixtures/schedules.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(rows, indent=1) + "\n")
