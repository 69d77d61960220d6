"""Writes Tests/Backbones/Fixtures: small Wan transformers with what torch and diffusers say of them.

Not needed to run the tests; this says how the committed fixtures came about. From the repository's root:
    python -m venv venv && venv/bin/pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python Tests/Reference/wan_fixtures.py

Every parameter is drawn anew (norms, tables and biases too), so that none can be left out unnoticed. Each folder holds
config.json, diffusion_pytorch_model.safetensors, inputs.safetensors, cotangent.safetensors and expected.safetensors: `sample`,
`features.K` (the residual stream after block K), `grad_NAME` of every floating-point input but the timestep, and `grad.NAME` of every
parameter.
"""
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent / "Backbones" / "Fixtures"

CASES = {
    # Text to video, like the demo's: position channels behind the latent, an integer timestep beside a fractional one.
    "t2v": dict(
        config=dict(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=20, in_channels=20, out_channels=12, text_dim=13,
            freq_dim=32, ffn_dim=56, num_layers=3, rope_max_seq_len=16,
        ),
        size=(3, 6, 10), text=7, image=None, timestep=torch.tensor([937.0, 412.625]),
    ),
    # Image to video: added keys and values; diffusers takes the last 512 context tokens for text.
    "i2v": dict(
        config=dict(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=10, out_channels=4, text_dim=6,
            freq_dim=18, ffn_dim=40, num_layers=2, image_dim=14, added_kv_proj_dim=24, rope_max_seq_len=16,
        ),
        size=(2, 4, 6), text=512, image=(2, 9), timestep=torch.tensor([999, 3]),
    ),
    # First and last frame: image positions; an odd patch, no cross-attention norm, integer timesteps.
    "flf": dict(
        config=dict(
            patch_size=(2, 1, 2), num_attention_heads=3, attention_head_dim=8, in_channels=6, out_channels=None, text_dim=5,
            freq_dim=16, ffn_dim=30, num_layers=1, image_dim=10, added_kv_proj_dim=24, rope_max_seq_len=12, pos_embed_seq_len=10,
            cross_attn_norm=False, eps=1e-5,
        ),
        size=(4, 3, 6), text=512, image=(4, 5), timestep=torch.tensor([0, 731]),
    ),
}


def randomise(model, generator):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim > 1 and "table" not in name and "pos_embed" not in name:
                parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise)


def evaluate(model, inputs, cotangent):
    """The model's answers with gradients, under the names that `foretaste backbone forward` writes."""
    features = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, output, k=k: features.__setitem__(f"features.{k + 1}", output.detach().clone()))
        for k, block in enumerate(model.blocks)
    ]
    floats = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items() if name != "timestep"}
    sample = model(**{**inputs, **floats}).sample
    for hook in hooks:
        hook.remove()
    if cotangent is None:
        cotangent = torch.randn(sample.shape, generator=torch.Generator().manual_seed(99))
    model.zero_grad()
    (sample * cotangent).sum().backward()
    result = {"sample": sample.detach(), **features, **{f"grad_{name}": tensor.grad for name, tensor in floats.items()}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            result[f"grad.{name}"] = parameter.grad
    return {name: tensor.contiguous() for name, tensor in result.items()}, cotangent


def write(name, case):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    torch.manual_seed(0)
    model = WanTransformer3DModel(**case["config"]).eval()
    randomise(model, generator)
    folder = ROOT / name
    model.save_pretrained(folder)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    inputs = {
        "hidden_states": draw(2, case["config"]["in_channels"], *case["size"]),
        "timestep": case["timestep"],
        "encoder_hidden_states": draw(2, case["text"], case["config"]["text_dim"]),
    }
    if case["image"]:
        inputs["encoder_hidden_states_image"] = draw(*case["image"], case["config"]["image_dim"])
    expected, cotangent = evaluate(model, inputs, None)
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"cotangent": cotangent}, folder / "cotangent.safetensors")
    save_file(expected, folder / "expected.safetensors")
    return model, inputs, cotangent


def write_lora(model, inputs, cotangent):
    """A LoRA as diffusers saves it, alpha twice the rank, on linears of every kind."""
    generator = torch.Generator().manual_seed(5)
    config = LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v", "to_out.0", "ffn.net.0.proj"])
    model.requires_grad_(False)
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    expected, _ = evaluate(model, inputs, cotangent)
    folder = ROOT / "t2v" / "lora"
    WanPipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(model), **_collate_lora_metadata({"transformer": model})
    )
    rename = lambda name: name.replace(".default.", ".").replace("grad.", "grad.transformer.") if "lora_" in name else name
    save_file({rename(k): v for k, v in expected.items() if "base_layer" not in k}, folder / "expected.safetensors")


if __name__ == "__main__":
    for name, case in CASES.items():
        made = write(name, case)
        if name == "t2v":
            write_lora(*made)
    total = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{total} bytes under {ROOT}")
