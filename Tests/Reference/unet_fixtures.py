"""Writes Tests/Backbones/Fixtures/unet-*: small U-Nets with what torch and diffusers say of them.

Not needed to run the tests; this says how the committed fixtures came about. From the repository's root:
    python -m venv venv && venv/bin/pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python Tests/Reference/unet_fixtures.py

Every parameter is drawn anew (norms and biases too), so that none can be left out unnoticed; values are rounded to bf16, in which the
files hold them. Each folder holds config.json, diffusion_pytorch_model.safetensors, inputs.safetensors, cotangent.safetensors (of
`sample`, and of the features for the half) and expected.safetensors: `sample`, `features.down.K`, `features.mid`, `grad_<input>`,
`half.grad_<input>` (the features' cotangents, the up half not run), and of every parameter `grad.NAME` or, where it has more than 32
values, `projected.NAME`: 12 sums of the gradient's values times sin(0.7391 (i+1) (j+1)), in double precision.
"""
import copy
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent / "Backbones" / "Fixtures"
CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

CASES = {
    # Stable Diffusion 1.5: convolutions around the transformers, one number of heads; no side is even at any level but one.
    "unet-sd15": dict(
        config=dict(
            in_channels=4, out_channels=4, block_out_channels=(8, 12, 12), layers_per_block=2, attention_head_dim=2, norm_num_groups=4,
            cross_attention_dim=10, down_block_types=(CROSS_DOWN, CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP, CROSS_UP),
        ),
        size=(9, 13), text=5, timestep=torch.tensor([981.0, 3.25]),
    ),
    # Stable Diffusion 2.1: linears around them, heads for each block; a picture that halves evenly, integer timesteps.
    "unet-sd21": dict(
        config=dict(
            in_channels=5, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=(2, 4), norm_num_groups=4,
            cross_attention_dim=7, down_block_types=(CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP), use_linear_projection=True,
            upcast_attention=True,
        ),
        size=(6, 4), text=4, timestep=torch.tensor([999, 0, 421]),
    ),
    # SDXL: added conditions, several transformer layers a block, a plain block outermost.
    "unet-sdxl": dict(
        config=dict(
            in_channels=4, out_channels=4, block_out_channels=(6, 6, 12), layers_per_block=1, attention_head_dim=(1, 2, 4),
            norm_num_groups=3, cross_attention_dim=12, transformer_layers_per_block=(1, 3, 2), use_linear_projection=True,
            down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP), addition_embed_type="text_time",
            addition_time_embed_dim=6, projection_class_embeddings_input_dim=46,
        ),
        size=(7, 10), text=5, timestep=torch.tensor([741.0, 20.5]), pooled=10,
    ),
    # What the others leave at its default, masked text, and values so small that each norm's epsilon is seen in the result.
    "unet-rare": dict(
        config=dict(
            in_channels=3, out_channels=2, block_out_channels=(6, 9, 12), layers_per_block=(1, 2, 1), attention_head_dim=(2, 3, 4),
            norm_num_groups=3, norm_eps=3e-4, cross_attention_dim=5, transformer_layers_per_block=(1, 2, 1), time_embedding_dim=14,
            down_block_types=(CROSS_DOWN, DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP), flip_sin_to_cos=False, freq_shift=1,
            downsample_padding=0, center_input_sample=True, sample_size=(11, 6),
        ),
        size=(11, 6), text=6, timestep=torch.tensor([0.5, 312.0]), small=True,
        mask=torch.tensor([[1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]]),
    ),
}


def randomise(model, generator, small):
    """`small` scales what writes into the streams, so that their squares are of the size of the norms' epsilons."""
    stream, inside = 0.005, 0.012
    factors = {"conv_in.": stream, "conv2.": stream, "proj_out.": stream, "shortcut.bias": stream, "samplers.0.conv.bias": stream}
    factors |= {"conv1.": 0.05, "time_emb_proj.": 0.05, "proj_in.": inside, "to_out.0.": inside, "ff.net.2.": inside}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        factor = next((factor for part, factor in factors.items() if part in name), 1) if small else 1
        with torch.no_grad():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(factor * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(factor * 0.3 * noise)
            parameter.copy_(parameter.bfloat16().float())


def watch(model, features):
    """Hooks that note the maps we name `down.K` and `mid`."""

    def note(name, pick):
        return lambda _module, _input, output: features.__setitem__(f"features.{name}", pick(output))

    for k, block in enumerate(model.down_blocks):
        last = -1 if block.downsamplers is None else -2
        yield block.register_forward_hook(note(f"down.{k}", lambda output, last=last: output[1][last]))
    yield model.mid_block.register_forward_hook(note("mid", lambda output: output))


def projected(gradient):
    """12 sums that a wrong gradient would hardly get right, in place of many values."""
    values = gradient.double().flatten()
    i = torch.arange(1, values.numel() + 1, dtype=torch.float64)
    return torch.stack([(values * torch.sin(0.7391 * i * j)).sum() for j in range(1, 13)]).float()


def answers(model, inputs, cotangents=None):
    """The model's answers with gradients; the cotangents are drawn where none are given."""
    floats = {
        name: value.clone().requires_grad_() for name, value in inputs.items() if name in ("sample", "encoder_hidden_states", "text_embeds")
    }
    arguments = {**inputs, **floats}
    added = {name: arguments.pop(name) for name in ("text_embeds", "time_ids") if name in arguments}
    features = {}
    hooks = list(watch(model, features))
    sample = model(**arguments, added_cond_kwargs=added or None).sample
    for hook in hooks:
        hook.remove()
    if cotangents is None:
        generator = torch.Generator().manual_seed(99)
        draw = lambda tensor: torch.randn(tensor.shape, generator=generator)
        cotangents = {"cotangent": draw(sample)} | {name.replace("features", "cotangent"): draw(map) for name, map in features.items()}
    result = {"sample": sample} | features
    half = sum((map * cotangents[name.replace("features", "cotangent")]).sum() for name, map in features.items())
    for name, gradient in zip(floats, torch.autograd.grad(half, floats.values(), retain_graph=True)):
        result[f"half.grad_{name}"] = gradient
    model.zero_grad()
    (sample * cotangents["cotangent"]).sum().backward()
    result |= {f"grad_{name}": value.grad for name, value in floats.items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            if gradient.numel() > 32:
                result[f"projected.{name}"] = projected(gradient)
            else:
                result[f"grad.{name}"] = gradient
    return {name: tensor.detach().clone().contiguous() for name, tensor in result.items()}, cotangents


def write(name, case):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    torch.manual_seed(0)
    config = case["config"]
    model = UNet2DConditionModel(**config).eval()
    randomise(model, generator, case.get("small", False))
    folder = ROOT / name
    model.save_config(folder)
    weights = {key: value.bfloat16().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    batch = len(case["timestep"])
    inputs = {
        "sample": draw(batch, config["in_channels"], *case["size"]),
        "timestep": case["timestep"],
        "encoder_hidden_states": draw(batch, case["text"], config["cross_attention_dim"]),
    }
    if "pooled" in case:
        inputs["text_embeds"] = draw(batch, case["pooled"])
        inputs["time_ids"] = torch.tensor([[1024.0, 768, 0, 0, 1024, 768], [512, 640, 12, 34, 1024, 1024]])
    if "mask" in case:
        inputs["encoder_attention_mask"] = case["mask"]
    expected, cotangents = answers(model, inputs)
    save_file(inputs, folder / "inputs.safetensors")
    save_file(cotangents, folder / "cotangent.safetensors")
    save_file(expected, folder / "expected.safetensors")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {parameters} parameters, a sample of deviation {expected['sample'].std():.3f}")
    return model, inputs, cotangents


def write_lora(model, inputs, cotangents):
    """A LoRA as diffusers saves it for a U-Net, alpha twice the rank, on linears and on convolutions with kernels of one and three.

    PEFT keeps its targets in a set: their order in the file's metadata changes from run to run, and nothing else does.
    """
    generator = torch.Generator().manual_seed(5)
    targets = ["attn1.to_q", "to_out.0", "proj_in", "conv1"]
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=targets)
    model = copy.deepcopy(model)
    model.requires_grad_(False)
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    expected, _ = answers(model, inputs, cotangents)
    folder = ROOT / "unet-sd15" / "lora"
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(model), **_collate_lora_metadata({"unet": model})
    )
    expected = {key.replace(".default.", "."): value for key, value in expected.items() if not key.startswith("half.")}
    save_file(expected, folder / "expected.safetensors")


def write_sizes():
    """How many parameters the published configurations make."""
    published = {
        "sd15": dict(cross_attention_dim=768),
        "sd21": dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
        "sdxl": dict(
            block_out_channels=(320, 640, 1280), down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP),
            cross_attention_dim=2048, attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
    }
    for name, config in published.items():
        with torch.device("meta"):
            model = UNet2DConditionModel(**config)
        tensors = model.state_dict()
        half = {key: value for key, value in tensors.items() if not key.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))}
        count = lambda values: sum(value.numel() for value in values)
        print(json.dumps({"model": name, "tensors": len(tensors), "parameters": count(tensors.values()), "half": count(half.values())}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, case in CASES.items():
        made = write(name, case)
        if name == "unet-sd15":
            write_lora(*made)
    write_sizes()
    folders = ROOT.glob("unet-*")
    total = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    print(f"{total} bytes under {ROOT}")
