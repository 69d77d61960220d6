"""Writes Tests/Backbones/Fixtures/sd3*: small SD3 transformers with what torch and diffusers say of them.

Not needed to run the tests; this says how the committed fixtures came about. From the repository's root:
    python -m venv venv && venv/bin/pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python Tests/Reference/sd3_fixtures.py

Every parameter is drawn anew (norms and biases too), so that none can be left out unnoticed. Each folder holds config.json,
diffusion_pytorch_model.safetensors, inputs.safetensors, cotangent.safetensors and expected.safetensors: `sample`, `features.K` (the
image tokens after block K), the gradients of all three inputs and `grad.NAME` of every parameter. With the argument `counts` it prints
the parameter counts of the published models instead, built on the meta device.
"""
from pathlib import Path
import sys

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent / "Backbones" / "Fixtures"
FLOATS = ["hidden_states", "encoder_hidden_states", "pooled_projections"]

CASES = {
    # Like Stable Diffusion 3: no norm of queries and keys. The position table is twice as fine as the sample is wide.
    "sd3": dict(
        config=dict(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=14, caption_projection_dim=16, pooled_projection_dim=10, pos_embed_max_size=8,
        ),
        size=(6, 10), text=7, timestep=torch.tensor([937.0, 412.625]),
    ),
    # Like 3.5: queries and keys normalised, a second attention in some layers (the last among them), other channels out than in.
    # A table whose positions are thirds, and an integer timestep.
    "sd35": dict(
        config=dict(
            sample_size=5, patch_size=2, in_channels=3, out_channels=5, num_layers=3, attention_head_dim=10, num_attention_heads=2,
            joint_attention_dim=9, caption_projection_dim=20, pooled_projection_dim=6, pos_embed_max_size=6, qk_norm="rms_norm",
            dual_attention_layers=(0, 2),
        ),
        size=(10, 4), text=5, timestep=torch.tensor([999, 3]),
    ),
}

COMMON = dict(
    sample_size=128, patch_size=2, in_channels=16, out_channels=16, attention_head_dim=64, joint_attention_dim=4096,
    pooled_projection_dim=2048,
)
PUBLISHED = {
    "stable-diffusion-3-medium": dict(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192),
    "stable-diffusion-3.5-medium": dict(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13))),
    "stable-diffusion-3.5-large": dict(
        num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, qk_norm="rms_norm"),
    "diffusers' defaults": dict(num_layers=18, num_attention_heads=18, caption_projection_dim=1152, pos_embed_max_size=96),
}


def randomise(model, generator):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if ".attn" in name and "norm" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise)


def evaluate(model, inputs, cotangent):
    """The model's answers with gradients, under the names that `foretaste backbone forward` writes."""
    features = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, output, k=k: features.__setitem__(f"features.{k + 1}", output[1].detach().clone()))
        for k, block in enumerate(model.transformer_blocks)
    ]
    leaves = {name: inputs[name].clone().requires_grad_() for name in FLOATS}
    sample = model(**{**inputs, **leaves}).sample
    for hook in hooks:
        hook.remove()
    if cotangent is None:
        cotangent = torch.randn(sample.shape, generator=torch.Generator().manual_seed(99))
    model.zero_grad()
    (sample * cotangent).sum().backward()
    result = {"sample": sample.detach(), **features, **{f"grad_{name}": leaf.grad for name, leaf in leaves.items()}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            result[f"grad.{name}"] = parameter.grad
    return {name: tensor.contiguous() for name, tensor in result.items()}, cotangent


def write(name, case):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    torch.manual_seed(0)
    config = case["config"]
    model = SD3Transformer2DModel(**config).eval()
    randomise(model, generator)
    folder = ROOT / name
    model.save_pretrained(folder)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    inputs = {
        "hidden_states": draw(2, config["in_channels"], *case["size"]),
        "timestep": case["timestep"],
        "encoder_hidden_states": draw(2, case["text"], config["joint_attention_dim"]),
        "pooled_projections": draw(2, config["pooled_projection_dim"]),
    }
    expected, cotangent = evaluate(model, inputs, None)
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"cotangent": cotangent}, folder / "cotangent.safetensors")
    save_file(expected, folder / "expected.safetensors")
    return model, inputs, cotangent


def write_lora(name, model, inputs, cotangent):
    """A LoRA as diffusers saves it, alpha twice the rank, on linears of every kind."""
    generator = torch.Generator().manual_seed(5)
    targets = ["attn.to_q", "attn.add_k_proj", "attn.to_out.0", "attn2.to_v", "ff.net.0.proj", "ff_context.net.2", "norm1.linear"]
    config = LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=targets)
    model.requires_grad_(False)
    model.add_adapter(config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            with torch.no_grad():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    expected, _ = evaluate(model, inputs, cotangent)
    folder = ROOT / name / "lora"
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(model), **_collate_lora_metadata({"transformer": model})
    )
    rename = lambda key: key.replace(".default.", ".").replace("grad.", "grad.transformer.") if "lora_" in key else key
    save_file({rename(k): v for k, v in expected.items() if "base_layer" not in k}, folder / "expected.safetensors")


def counts():
    for name, config in PUBLISHED.items():
        with torch.device("meta"):
            model = SD3Transformer2DModel(**{**COMMON, **config})
        print(f"{name}: {sum(p.numel() for p in model.parameters())} in {len(list(model.parameters()))} tensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["counts"]:
        counts()
        raise SystemExit
    for name, case in CASES.items():
        made = write(name, case)
        if name == "sd35":
            write_lora(name, *made)
    total = sum(path.stat().st_size for name in CASES for path in (ROOT / name).rglob("*") if path.is_file())
    print(f"{total} bytes under {ROOT}")
