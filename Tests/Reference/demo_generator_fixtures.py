"""Writes Tests/DemoWorld/Fixtures/generator.safetensors: what diffusers makes of the demo's own generator.

Run: python Tests/Reference/demo_generator_fixtures.py    (pip install diffusers torch safetensors)
"""
import pathlib

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

root = pathlib.Path(__file__).parent.parent.parent
resources = root / "Shared/DemoWorld/Resources"
world = load_file(resources / "world.safetensors")
model = WanTransformer3DModel.from_pretrained(resources / "generator")

prompts = torch.tensor([0, 3, 7, 10])
shape, colour, direction = prompts // 6, (prompts // 2) % 3, prompts % 2
embeds = world["text"][torch.stack([colour + 2, shape, torch.full_like(shape, 7), direction + 5], 1)]
noise = torch.randn(4, 12, 6, 8, 8, generator=torch.Generator().manual_seed(20))
position = world["position_channels"].expand(4, -1, -1, -1, -1)
u = torch.linspace(1, 0, 11)
sigmas = 3 * u / (1 + 2 * u)


@torch.no_grad()
def velocity(x, timestep):
    return model(torch.cat([x, position], 1), timestep=timestep, encoder_hidden_states=embeds).sample


timesteps = torch.tensor([1000.0, 812.5, 400.0, 20.0])
out = dict(prompts=prompts.int(), noise=noise, timesteps=timesteps, velocity=velocity(noise, timesteps))
x = noise
for step in range(10):
    x = x + (sigmas[step + 1] - sigmas[step]) * velocity(x, (1000 * sigmas[step]).expand(4))
out["latents"] = x
save_file({name: tensor.contiguous() for name, tensor in out.items()}, root / "Tests/DemoWorld/Fixtures/generator.safetensors")
