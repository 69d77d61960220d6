"""Proves both directions between our LoRA files and diffusers'.

    python -m venv venv && venv/bin/pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
    venv/bin/python Tests/Reference/lora_roundtrip.py [GENERATOR LORA_FOLDER]

Without arguments: takes the committed file that our code wrote (Fixtures/t2v/lora-ours), loads it into WanPipeline with no extra
argument, and writes beside it what diffusers makes of it; the Swift tests hold our writer to that file and our model to that output.
The other direction is Fixtures/t2v/lora, which diffusers wrote (wan_fixtures.py) and the Swift tests read.
With arguments (a diffusers folder, and a folder with pytorch_lora_weights.safetensors, such as `foretaste demo` leaves): loads the
pair and says how far the LoRA moves the output; then saves it from diffusers again and checks that the same tensors come back.
"""
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

FIXTURE = Path(__file__).resolve().parent.parent / "Backbones" / "Fixtures" / "t2v"


def pipeline(folder):
    transformer = WanTransformer3DModel.from_pretrained(folder)
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=transformer
    )


def inputs_for(config):
    g = torch.Generator().manual_seed(1)
    size = [4 * p for p in config.patch_size]
    return {
        "hidden_states": torch.randn(2, config.in_channels, *size, generator=g),
        "timestep": torch.tensor([900.0, 250.0]),
        "encoder_hidden_states": torch.randn(2, 5, config.text_dim, generator=g),
    }


def main(generator, lora, inputs=None, keep=False):
    pipe = pipeline(generator)
    inputs = inputs or inputs_for(pipe.transformer.config)
    with torch.no_grad():
        before = pipe.transformer(**inputs).sample
        pipe.load_lora_weights(lora)
        after = pipe.transformer(**inputs).sample
    moved = ((after - before).norm() / before.norm()).item()
    written = load_file(lora / "pytorch_lora_weights.safetensors")
    loaded = {name for name, _ in pipe.transformer.named_parameters() if "lora_" in name}
    assert len(loaded) == len(written), f"{len(written)} tensors in the file, {len(loaded)} in the model"
    name = pipe.get_active_adapters()[0]
    config = pipe.transformer.peft_config[name]
    print(f"{len(written)} tensors, rank {config.r}, alpha {config.lora_alpha}; the output moved by {moved:.4f} relative")
    assert moved > 0, "the adapter changes nothing"
    with tempfile.TemporaryDirectory() as folder:
        WanPipeline.save_lora_weights(
            folder, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer, adapter_name=name),
            **({} if name != "default" else _collate_lora_metadata({"transformer": pipe.transformer})),
        )
        again = load_file(Path(folder) / "pytorch_lora_weights.safetensors")
    assert again.keys() == written.keys(), sorted(again.keys() ^ written.keys())[:4]
    assert all(torch.equal(again[key], written[key]) for key in written)
    if keep:
        save_file({"sample": after.contiguous()}, lora / "expected.safetensors")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main(FIXTURE, FIXTURE / "lora-ours", load_file(FIXTURE / "inputs.safetensors"), keep=True)
