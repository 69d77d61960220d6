"""PyTorch's side of `make bench`: the work of `BackboneBench serve`, by the same options, answered in the same lines of JSON.

Needs torch, diffusers and, for adapters, peft from PyPI.
Usage: peer.py serve --model FOLDER --pass PASS --grid FxHxW [--batch N] [--text N] [--threads N] [--compile yes]
       (then, from stdin: run | memory; anything else ends it)
       peer.py version
"""
import argparse
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch  # noqa: E402


def numbers(shape, seed, scale=1.0):
    """The numbers of `Inputs.swift`, value for value."""
    count = 1
    for extent in shape:
        count *= extent
    place = (torch.arange(count, dtype=torch.int64) + (1 + seed * 7919)) & 0xFFFFFFFF
    hashed = (place * 2654435761) & 0xFFFFFFFF
    return (((hashed.double() / 2147483648.0 - 1) * 1.7).float() * scale).reshape(shape)


def magnitude(tensors):
    return sum(t.abs().double().sum().item() for t in tensors) / max(sum(t.numel() for t in tensors), 1)


def peak_memory():
    """VmHWM: unlike ru_maxrss it does not begin at the parent's."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


class Wan:
    def __init__(self, options):
        from diffusers import WanTransformer3DModel

        self.kind = options.pass_
        model = WanTransformer3DModel.from_pretrained(options.model, low_cpu_mem_usage=True)
        c, (frames, rows, columns) = model.config, options.grid
        model.requires_grad_(self.kind == "training")
        if self.kind == "lora":
            from peft import LoraConfig

            targets = [f"{a}.{n}" for a in ("attn1", "attn2") for n in ("to_q", "to_k", "to_v", "to_out.0")]
            model.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
            width = c.num_attention_heads * c.attention_head_dim
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if "lora_A" in name:
                        p.copy_(numbers([16, width], 4, 0.02))
                    elif "lora_B" in name:
                        p.copy_(numbers([width, 16], 5, 0.02))
        self.model = model
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.latents = numbers([options.batch, c.in_channels, frames, rows, columns], 1)
        self.latents.requires_grad_(self.kind == "input")
        self.text = numbers([options.batch, options.text, c.text_dim], 2)
        self.timestep = torch.full((options.batch,), 700.0)
        self.cotangent = numbers([options.batch, c.out_channels, frames, rows, columns], 3)
        self.call = torch.compile(model) if options.compile else model

    def run(self):
        grad = self.kind != "forward"
        self.latents.grad = None
        for p in self.trainable:
            p.grad = None
        with torch.set_grad_enabled(grad):
            sample = self.call(hidden_states=self.latents, timestep=self.timestep, encoder_hidden_states=self.text).sample
        if self.kind == "forward":
            return [sample]
        if self.kind == "training":
            sample.square().mean().backward()
            return [p.grad for p in self.trainable]
        sample.backward(self.cotangent)
        return [self.latents.grad] if self.kind == "input" else [p.grad for p in self.trainable]


class UNet:
    """Stable Diffusion's U-Net; `half` is the part that a reward model on latents runs: down and mid blocks."""

    def __init__(self, options):
        from diffusers import UNet2DConditionModel

        self.kind = options.pass_
        model = UNet2DConditionModel.from_pretrained(options.model, low_cpu_mem_usage=True)
        model.requires_grad_(False)
        self.half = self.kind.startswith("half")
        if self.half:
            # What is never run is not kept either.
            model.up_blocks, model.conv_norm_out, model.conv_out = torch.nn.ModuleList(), None, None
        self.model = model
        c = model.config
        self.sample = numbers([options.batch, c.in_channels, *options.grid], 1)
        self.sample.requires_grad_(self.kind.endswith("input"))
        self.text = numbers([options.batch, options.text, c.cross_attention_dim], 2)
        self.timestep = torch.full((options.batch,), 700.0)
        forward = self.down_and_mid if self.half else self.full
        self.call = torch.compile(forward) if options.compile else forward

    def full(self, sample, timestep, text):
        return self.model(sample, timestep, encoder_hidden_states=text).sample

    def down_and_mid(self, sample, timestep, text):
        m = self.model
        embedding = m.time_embedding(m.time_proj(timestep).to(sample.dtype))
        x = m.conv_in(sample)
        for block in m.down_blocks:
            if getattr(block, "has_cross_attention", False):
                x, _ = block(hidden_states=x, temb=embedding, encoder_hidden_states=text)
            else:
                x, _ = block(hidden_states=x, temb=embedding)
        return m.mid_block(x, embedding, encoder_hidden_states=text)

    def run(self):
        grad = self.kind.endswith("input")
        self.sample.grad = None
        with torch.set_grad_enabled(grad):
            result = self.call(self.sample, self.timestep, self.text)
        if not grad:
            return [result]
        result.backward(numbers(list(result.shape), 3))
        return [self.sample.grad]


def answer(**fields):
    print(json.dumps(fields), flush=True)


def serve(options):
    torch.set_num_threads(options.threads)
    name = json.load(open(os.path.join(options.model, "config.json")))["_class_name"]
    work = {"WanTransformer3DModel": Wan, "UNet2DConditionModel": UNet}[name](options)
    answer(ready=True, torch=torch.__version__)
    for line in sys.stdin:
        if line.strip() == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            tensors = work.run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            answer(wall=wall, cpu=cpu, check=magnitude(tensors))
            del tensors
        elif line.strip() == "memory":
            answer(bytes=peak_memory())
        else:
            return


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve", "version"])
    parser.add_argument("--model")
    parser.add_argument("--pass", dest="pass_", default="forward")
    parser.add_argument("--grid", type=lambda text: [int(x) for x in text.split("x")])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--text", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", type=lambda text: text == "yes", default=False)
    options = parser.parse_args()
    if options.verb == "version":
        import diffusers
        import peft

        blas = "MKL" if torch.backends.mkl.is_available() else "another BLAS"
        answer(torch=torch.__version__, diffusers=diffusers.__version__, peft=peft.__version__, blas=blas,
               onednn=torch.backends.mkldnn.is_available(), vectors=torch.backends.cpu.get_cpu_capability())
    else:
        serve(options)


main()
