"""Writes Tests/Diffusion/Fixtures: what diffusers' own schedulers do, step for step.

schedules.json   sigmas of flow matching, both ways of asking for them
flow.json        flow matching with custom sigmas and dynamic shifting, and its Euler steps
ddim.json        DDIM as built from the hub's configurations: every step with its noise, in float32 and in float64

Run: python Tests/Reference/schedule_fixtures.py    (pip install diffusers torch)
"""
import json
import math
import pathlib

import diffusers
import numpy
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

FOLDER = pathlib.Path(__file__).parent.parent / "Diffusion/Fixtures"
torch.set_num_threads(1)


def plain(tensor, digits=10):
    """Nested lists with few digits; None for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in tensor.double().flatten().tolist()]


def write(name, rows, indent=None):
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(json.dumps(rows, indent=indent) + "\n")


def schedules():
    rows = []
    for steps, shift in [(1, 1.0), (4, 5.0), (10, 3.0), (20, 3.0), (40, 5.0), (50, 1.0)]:
        for spacing in ("uniform", "trainingTable"):
            scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
            if spacing == "uniform":
                scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps))
            else:
                scheduler.set_timesteps(steps)
            rows.append(dict(steps=steps, shift=shift, spacing=spacing, sigmas=scheduler.sigmas.tolist(), timesteps=scheduler.timesteps.tolist()))
    write("schedules.json", rows, indent=1)


def flow():
    base = dict(_class_name="FlowMatchEulerDiscreteScheduler")
    dynamic = dict(base, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
    cases = [
        (dict(base, shift=3.0), dict(num_inference_steps=1), "trainingTable"),
        (dict(base, shift=3.0), dict(num_inference_steps=7), "trainingTable"),
        (dict(base, shift=2.5, num_train_timesteps=500), dict(num_inference_steps=5), "trainingTable"),
        (dict(base, shift=3.0), dict(sigmas=[1.0, 0.8, 0.55, 0.2, 0.01]), "sigmas"),
        (dict(base), dict(sigmas=[0.6]), "sigmas"),
        (dict(dynamic), dict(num_inference_steps=6, mu=0.8), "trainingTable"),
        (dict(dynamic, time_shift_type="linear"), dict(num_inference_steps=6, mu=1.7), "trainingTable"),
        (dict(dynamic), dict(sigmas=numpy.linspace(1, 1 / 20, 20).tolist(), mu=1.15), "uniform"),
    ]
    rows = []
    generator = torch.Generator().manual_seed(5)
    for config, arguments, spacing in cases:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(**arguments)
        sample = torch.randn(2, 3, generator=generator)
        row = dict(
            config=json.dumps(config), spacing=spacing, sigmas=scheduler.sigmas.tolist(), timesteps=scheduler.timesteps.tolist(),
            steps=len(scheduler.timesteps), given=arguments.get("sigmas") if spacing == "sigmas" else None, mu=arguments.get("mu"),
            start=plain(sample), outputs=[], samples=[])
        for timestep in scheduler.timesteps:
            output = torch.randn(2, 3, generator=generator)
            sample = scheduler.step(output, timestep, sample).prev_sample
            row["outputs"].append(plain(output))
            row["samples"].append(plain(sample))
        rows.append(row)
    write("flow.json", rows)


STABLE_DIFFUSION = dict(
    _class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None, clip_sample=False)
XL = dict(
    STABLE_DIFFUSION, _class_name="EulerDiscreteScheduler", interpolation_type="linear", prediction_type="epsilon", sample_max_value=1.0,
    timestep_spacing="leading", use_karras_sigmas=False)
DDIM = dict(_class_name="DDIMScheduler")
CASES = [
    (STABLE_DIFFUSION, 20, 1.0),
    (STABLE_DIFFUSION, 1, 0.0),
    (STABLE_DIFFUSION, 1, 1.0),
    (STABLE_DIFFUSION, 50, 0.0),
    (XL, 7, 0.5),
    (dict(STABLE_DIFFUSION, _class_name="DDIMScheduler", prediction_type="v_prediction"), 6, 1.0),
    (dict(STABLE_DIFFUSION, _class_name="DDIMScheduler", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10, 1.0),
    (dict(DDIM, prediction_type="sample", clip_sample_range=0.7), 5, 0.3),
    (dict(DDIM, beta_schedule="squaredcos_cap_v2", timestep_spacing="linspace"), 4, 0.0),
    (dict(DDIM, beta_schedule="squaredcos_cap_v2", timestep_spacing="linspace", prediction_type="v_prediction", clip_sample=False), 9, 0.7),
    (dict(DDIM, timestep_spacing="linspace"), 1, 0.0),
    (dict(DDIM, timestep_spacing="trailing", clip_sample=False), 3, 1.0),
    (dict(DDIM, num_train_timesteps=100, steps_offset=3, set_alpha_to_one=False), 8, 1.0),
    ({"_class_name": "DDPMScheduler", "variance_type": "fixed_small"}, 4, 1.0),
    ({"_class_name": "PNDMScheduler"}, 2, 0.0),
]


def double(scheduler):
    """The same scheduler with its table of noise in float64."""
    config = scheduler.config
    count = config.num_train_timesteps
    if config.beta_schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, count, dtype=torch.float64)
    elif config.beta_schedule == "scaled_linear":
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, count, dtype=torch.float64) ** 2
    else:
        bar = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = torch.tensor([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(count)], dtype=torch.float64)
    if config.rescale_betas_zero_snr:
        betas = diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr(betas)
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64) if config.set_alpha_to_one else scheduler.alphas_cumprod[0]
    return scheduler


def build(config, steps):
    """As a user does: the folder's own scheduler, and DDIM from its configuration."""
    named = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler = DDIMScheduler.from_config(named.config)
    scheduler.set_timesteps(steps)
    return scheduler


def ddim():
    rows = []
    generator = torch.Generator().manual_seed(7)
    for config, steps, eta in CASES:
        single, exact = build(config, steps), double(build(config, steps))
        sample = torch.randn(2, 2, generator=generator)
        row = dict(config=json.dumps(config), count=steps, eta=eta, timesteps=single.timesteps.tolist(), steps=[])
        for timestep in single.timesteps.tolist():
            output, noise = torch.randn(2, 2, generator=generator), torch.randn(2, 2, generator=generator)
            arguments = dict(eta=eta, variance_noise=noise if eta > 0 else None)
            low = single.step(output, timestep, sample, **arguments)
            high = exact.step(output.double(), timestep, sample.double(), eta=eta, variance_noise=noise.double() if eta > 0 else None)
            mean = exact.step(output.double(), timestep, sample.double(), eta=eta, variance_noise=torch.zeros(2, 2).double()).prev_sample
            before = timestep - single.config.num_train_timesteps // steps
            deviation = eta * exact._get_variance(timestep, before).item() ** 0.5
            following = high.prev_sample.float()
            entry = dict(
                sample=plain(sample), output=plain(output), noise=plain(noise), next=plain(high.prev_sample), clean=plain(high.pred_original_sample),
                mean=plain(mean), next32=plain(low.prev_sample), clean32=plain(low.pred_original_sample), deviation=deviation,
                alphaBar=exact.alphas_cumprod[timestep].item())
            if deviation > 0:
                density = torch.distributions.Normal(mean, deviation).log_prob(following.double())
                entry.update(following=plain(following), logMean=plain(density.mean(1)), logSum=plain(density.sum(1)))
            row["steps"].append(entry)
            sample = following
        rows.append(row)
    write("ddim.json", rows)


schedules()
flow()
ddim()
