"""The works of the benchmark, and the bars they are held against."""
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "Shared" / "DemoWorld" / "Resources" / "generator"


@dataclass
class Row:
    name: str
    section: str
    # A model's folder below the benchmark's, with what makes it; or a path, and nothing.
    model: object
    make: tuple
    pass_: str
    grid: str
    threads: int
    batch: int = 1
    text: int = 512
    rounds: int = 3
    compile: bool = False
    # Ours in bfloat16x3 beside it, on a machine with matrix tiles.
    tiles: bool = False
    # Least ratios over PyTorch eager where MKL holds back (AMD) and where it does not (Intel); least ratio over torch.compile.
    eager_bar: tuple = None
    compile_bar: float = None
    # Least share of the best sgemm of the same run.
    sgemm_bar: float = None
    # Largest share of PyTorch's peak memory.
    memory_bar: float = 0.6

    def options(self, path):
        return ["--model", path, "--pass", self.pass_, "--grid", self.grid, "--batch", self.batch, "--text", self.text]


def rows(cores, quick):
    """All rows, in the order of the issue's table: large works on all cores, small ones on one."""
    found = []
    passes = [
        ("forward", "forward", (2.0, 1.1)),
        ("input", "forward + backward, frozen", (2.0, 1.2)),
        ("lora", "forward + backward, LoRA", (2.0, 1.2)),
    ]
    for tokens, grid, blocks in [("3,120", "2x60x104", 2), ("12,480", "8x60x104", 1)]:
        if quick and blocks == 1:
            continue
        for pass_, name, bar in passes:
            # Compiling takes its minutes: where two rows would tell the same, one is compiled.
            compiled = pass_ == "forward" or (blocks == 2 and pass_ == "input")
            found.append(Row(
                f"Wan 1536, {tokens} tokens, {name}", "wan", f"wan{blocks}", ("wan", str(blocks)), pass_, grid, cores,
                rounds=3 if blocks == 2 else 2, compile=compiled, tiles=True, eager_bar=bar, sgemm_bar=0.9))
    for pass_, name in [("forward", "full"), ("half", "down + mid")]:
        found.append(Row(
            f"SD 1.5 U-Net, 64 x 64, {name}", "unet", "sd15", ("sd15",), pass_, "64x64", cores, text=77, tiles=True, eager_bar=(1.5, 1.1)))
    for width, model, make in [(128, DEMO, ()), (192, "wan192", ("wan192",))]:
        for batch in (8, 64):
            for pass_, name in [("forward", "forward"), ("training", "training step")]:
                found.append(Row(
                    f"small, width {width}, batch {batch}, {name}", "small", model, make, pass_, "6x8x8", 1, batch=batch, text=4,
                    rounds=7, compile=True, eager_bar=(2.2, 2.2), compile_bar=1.6))
    return found


def thread_rows():
    """What two threads are compared with one on."""
    return [
        Row("Wan 1536, 3,120 tokens, forward", "threads", "wan2", ("wan", "2"), "forward", "2x60x104", 2),
        Row("Wan 1536, 3,120 tokens, forward + backward, frozen", "threads", "wan2", ("wan", "2"), "input", "2x60x104", 2, rounds=2),
        Row("SD 1.5 U-Net, 64 x 64, down + mid", "threads", "sd15", ("sd15",), "half", "64x64", 2, text=77),
        Row("small, width 128, batch 64, training step", "threads", DEMO, (), "training", "6x8x8", 2, batch=64, text=4, rounds=9),
    ]
