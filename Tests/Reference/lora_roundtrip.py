"""Proves both directions between our LoRA files and diffusers', for Wan, Stable Diffusion's U-Net and SD3.

    python -m venv venv && venv/bin/pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python Tests/Reference/lora_roundtrip.py [--foretaste .build/release/foretaste]
    venv/bin/python Tests/Reference/lora_roundtrip.py GENERATOR LORA_FOLDER

Ours to diffusers: takes the committed files that our code wrote (Fixtures/*/lora-ours), loads each into a pipeline of its family with no
extra argument, and writes beside it what diffusers makes of it; the Swift tests hold our writer to that file and our model to that output.
Diffusers' to ours: with --foretaste, random adapters are saved in every way that diffusers and PEFT have, and the command line's output
with each is compared with torch's. (The Swift tests do the same with Fixtures/*/lora, which the fixture scripts wrote.)
With a diffusers folder and a folder with pytorch_lora_weights.safetensors, such as `foretaste demo` leaves: loads the pair and says how far
the LoRA moves the output; then saves it from diffusers again and checks that the same tensors come back.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline,
    UNet2DConditionModel, WanPipeline, WanTransformer3DModel,
)
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).resolve().parent.parent / "Backbones" / "Fixtures"
FILE = "pytorch_lora_weights.safetensors"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FAMILIES = {
    "t2v": dict(targets=ATTENTION + ["ffn.net.0.proj", "proj_out"]),
    "sd35": dict(targets=ATTENTION + ["add_q_proj", "to_add_out", "ff.net.2"]),
    "unet-sd15": dict(targets=ATTENTION + ["ff.net.0.proj", "time_emb_proj"]),
    "unet-sdxl": dict(targets=ATTENTION + ["proj_in", "proj_out"]),
}
CONVOLUTIONS = ["proj_in", "conv1", "conv_shortcut", "upsamplers.0.conv"]


def load(folder):
    """The folder's model in a pipeline of its family, which needs no encoders to load adapters."""
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    if name == "UNet2DConditionModel":
        model = UNet2DConditionModel.from_pretrained(folder).eval()
        # The pipeline warns of sample sizes below 64, and cannot compare none.
        model.register_to_config(sample_size=model.config.sample_size or 64)
        return model, StableDiffusionPipeline(
            vae=None, text_encoder=None, tokenizer=None, unet=model, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if name == "SD3Transformer2DModel":
        model = SD3Transformer2DModel.from_pretrained(folder).eval()
        encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
        return model, StableDiffusion3Pipeline(transformer=model, scheduler=scheduler, vae=None, **encoders)
    model = WanTransformer3DModel.from_pretrained(folder).eval()
    return model, WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=model)


def component(model):
    return "unet" if isinstance(model, UNet2DConditionModel) else "transformer"


def call(model, inputs):
    inputs = dict(inputs)
    added = {name: inputs.pop(name) for name in ("text_embeds", "time_ids") if name in inputs}
    with torch.no_grad():
        return model(**inputs, **({"added_cond_kwargs": added} if added else {})).sample


def off(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def made_up(config):
    g = torch.Generator().manual_seed(1)
    size = [4 * p for p in config.patch_size]
    return {
        "hidden_states": torch.randn(2, config.in_channels, *size, generator=g),
        "timestep": torch.tensor([900.0, 250.0]),
        "encoder_hidden_states": torch.randn(2, 5, config.text_dim, generator=g),
    }


def ours_to_diffusers(what, folder, lora, inputs=None, keep=False):
    model, pipe = load(folder)
    inputs = inputs or made_up(model.config)
    before = call(model, inputs)
    pipe.load_lora_weights(lora)
    after = call(model, inputs)
    written = load_file(lora / FILE)
    loaded = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(loaded) == len(written), f"{len(written)} tensors in the file, {len(loaded)} in the model"
    name = pipe.get_active_adapters()[0]
    config = model.peft_config[name]
    print(
        f"{what}: {len(written)} tensors, rank {config.r} (and {len(config.rank_pattern)} others), alpha {config.lora_alpha} "
        f"(and {len(config.alpha_pattern)} others); the output moved by {off(after, before):.4f} relative"
    )
    assert off(after, before) > 0, "the adapter changes nothing"
    with tempfile.TemporaryDirectory() as again:
        pipe.save_lora_weights(again, **{f"{component(model)}_lora_layers": get_peft_model_state_dict(model, adapter_name=name)})
        back = load_file(Path(again) / FILE)
    assert back.keys() == written.keys(), sorted(back.keys() ^ written.keys())[:4]
    assert all(torch.equal(back[key], written[key]) for key in written)
    if keep:
        save_file({"sample": after.contiguous()}, lora / "expected.safetensors")


def adapted(folder, config, wrap=False):
    """The folder's model with a random adapter, by diffusers or wrapped by PEFT."""
    model, pipe = load(folder)
    wrapped = get_peft_model(model, config) if wrap else model
    if not wrap:
        model.add_adapter(config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, pipe, wrapped


def ways(name):
    """Each: what it is called, the adapter, and how it is saved into a folder."""
    targets = FAMILIES[name]["targets"]
    config = lambda **more: LoraConfig(r=3, init_lora_weights=False, **{"lora_alpha": 6, "target_modules": targets, **more})

    def by_pipeline(model, pipe, _, folder, metadata=True, rename=lambda state: state):
        part = component(model)
        pipe.save_lora_weights(
            folder, **{f"{part}_lora_layers": rename(get_peft_model_state_dict(model))},
            **(_collate_lora_metadata({part: model}) if metadata else {}),
        )

    yield "pipeline", config(), by_pipeline
    yield "pipeline, no metadata", config(lora_alpha=3), lambda *a: by_pipeline(*a, metadata=False)
    yield "rank and alpha by layer", config(rank_pattern={"to_v": 2}, alpha_pattern={"to_q": 1.5, "to_out.0": 5}), by_pipeline
    yield "rslora", config(use_rslora=True), by_pipeline
    yield "model alone", config(), lambda model, pipe, wrapped, folder: model.save_lora_adapter(folder)
    yield "PEFT", config(lora_alpha=5), lambda model, pipe, wrapped, folder: wrapped.save_pretrained(folder)
    if name.startswith("unet"):
        yield "training script", config(lora_alpha=3), lambda *a: by_pipeline(*a, metadata=False, rename=convert_state_dict_to_diffusers)
        yield "convolutions", config(target_modules=targets + CONVOLUTIONS), by_pipeline


def diffusers_to_ours(name, foretaste):
    folder = FIXTURES / name
    inputs = load_file(folder / "inputs.safetensors")
    worst = 0
    for what, config, save in ways(name):
        made = adapted(folder, config, wrap=what == "PEFT")
        expected = call(made[0], inputs)
        moved = off(expected, call(load(folder)[0], inputs))
        assert moved > 0.01, f"{name}, {what}: the adapter moves the output by {moved} only"
        with tempfile.TemporaryDirectory() as lora:
            save(*made, lora)
            out = Path(lora) / "out.safetensors"
            subprocess.run(
                [foretaste, "backbone", "forward", folder, "--input", folder / "inputs.safetensors", "--output", out, "--lora", lora],
                check=True,
            )
            difference = off(load_file(out)["sample"], expected)
        print(f"{name}, {what}: off by {difference:.2e}; the adapter moves the output by {moved:.3f}")
        assert difference < 1e-4
        worst = max(worst, difference)
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pair", nargs="*", type=Path)
    parser.add_argument("--foretaste", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pair:
        ours_to_diffusers("pair", *arguments.pair)
    else:
        for name in ["t2v", "sd35", "unet-sd15"]:
            folder = FIXTURES / name
            ours_to_diffusers(f"ours, {name}", folder, folder / "lora-ours", load_file(folder / "inputs.safetensors"), keep=True)
        if arguments.foretaste:
            print(f"worst: {max(diffusers_to_ours(name, arguments.foretaste.resolve()) for name in FAMILIES):.2e}")
