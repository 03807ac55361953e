"""Training on a GPU beside PyTorch, in pieces of less than ten minutes.

    python benches/peers/gpu.py PIECE PROGRAM TORCH_GPT.py OUT [--device cuda:0]

PROGRAM is a build with `--features cuda`; TORCH_GPT.py the PyTorch trainer of train.py. A
PIECE is one of: machine (what is there, what its matrix products reach), parity (the runs of
data/parity with burn's operations and with ours), gpt2, gpt2-2048, 1b, pauses (one model
each, ours with each form of the operations and PyTorch's best settings, in turn), try (a
model of a few thousand parameters, to see that all of it runs; `--device cpu` will do),
table (of all that OUT holds, as Markdown). Prints each result as a line of JSON, also into
OUT/PIECE.jsonl; a run that fails is a line too and stops nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]

# layers, heads, d_model, d_ff, ids, positions, rows, Llama or GPT-2, PyTorch's preset, pauses
MODELS = {
    "gpt2": (12, 12, 768, 3072, 50304, 1024, 64, False, "gpt2", []),
    "gpt2-2048": (12, 12, 768, 3072, 50304, 2048, 32, False, "gpt2", []),
    "1b": (22, 16, 2048, 5504, 32768, 2048, 8, True, "1b", []),
    "pauses": (12, 12, 768, 3072, 50304, 1024, 64, False, "gpt2", ["--pause-frac", "0.1"]),
    "try": (2, 2, 64, 256, 512, 64, 8, False, "micro", []),
}
BEST = [["--sdpa", "flash", "--residual", "bf16"], ["--sdpa", "cudnn", "--residual", "bf16"]]


def recipe(shape, steps):
    layers, heads, d, ff, ids, length, rows, llama, _, _ = shape
    kind = ("rope", "rms-norm", "swi-glu", "false") if llama else ("learned", "layer-norm", "gelu", "true")
    return f"""\
[tokenizer]
train = {{ vocab_size = {ids - 3} }}
[model]
n_layers = {layers}
n_heads = {heads}
d_model = {d}
d_ff = {ff}
positions = "{kind[0]}"
norm = "{kind[1]}"
activation = "{kind[2]}"
bias = {kind[3]}
tied = true
[pretrain]
sources = [{{ path = "none" }}]
pack = {{ seq_len = {length} }}
[pretrain.train]
steps = {steps}
batch_tokens = {rows * length}
micro_batch_tokens = {rows * length}
lr = 6e-4
schedule = "constant"
decay_embeddings = true
"""


class Record:
    def __init__(self, folder, piece):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, (folder / f"{piece}.jsonl").open("a")

    def run(self, who, command, limit=240):
        """Runs a command and records the last line it prints, or what it said and how it ended."""
        begun = time.time()
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=limit)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            said = json.loads(lines[-1]) if lines else {}
            if not lines or done.returncode not in (0, 1):
                said = {"failed": done.returncode, "said": (done.stderr + done.stdout)[-1500:]}
        except subprocess.TimeoutExpired:
            said = {"failed": f"longer than {limit} s"}
        line = {"who": who, "wall_s": round(time.time() - begun, 1), **said}
        print(json.dumps(line), flush=True)
        print(json.dumps(line), file=self.file, flush=True)


def machine(args, record):
    record.run("doctor", [args.program, "doctor", "--json"])
    torch = [sys.executable, args.torch, "--device", "cuda", "--dtype", "bf16", "--preset", "micro", "--quiet"]
    record.run("PyTorch's products", [*torch, "--measure-peak", "--steps", "6"])


def parity(args, record):
    for model in ("gpt2", "llama"):
        for kernels, allowed in [("burn", 1e-3), ("f32", 1e-5), ("bf16", 1e-2)]:
            limits = ["--gradient", allowed, "--loss", allowed, "--curve", 5e-3]
            folder = HERE / "data/parity" / model
            command = [args.program, "bench", "parity", folder, "--json", "--device", args.device]
            record.run(f"{model}, {kernels}", [*command, "--kernels", kernels, *limits])


def speed(args, record):
    shape = MODELS[args.piece]
    *_, length, rows, llama, preset, pauses = shape
    cpu = args.device == "cpu"
    path = record.folder / f"{args.piece}.toml"
    path.write_text(recipe(shape, args.steps + args.warm))
    ours = [args.program, "bench", "train", path, "--json", "--warm", args.warm, "--device", args.device]
    if pauses:
        ours += ["--set", 'pretrain.pause={policy="random", fraction=0.1}']
    torch = [sys.executable, args.torch, "--preset", preset, "--arch", "llama" if llama else "gpt2"]
    torch += ["--bias", "0" if llama else "1", "--batch", rows, "--ctx", length, "--quiet", "--fixed-batch"]
    torch += ["--steps", args.steps + args.warm, "--skip", args.warm, *pauses]
    torch += ["--device", "cpu"] if cpu else ["--device", "cuda", "--dtype", "bf16", "--compile"]
    for round in range(args.rounds):
        for kernels in ["burn", "f32"] if cpu else ["burn", "bf16"]:
            record.run(f"pausedata, {kernels}, round {round}", [*ours, "--kernels", kernels])
        # As a run does it: after the check that our kernels agree with the CPU's.
        if round == 0:
            chosen = ["--set", 'pretrain.train.precision="bf16"'] if not cpu else []
            record.run("pausedata, as `train` chooses", [*ours, *chosen])
        for best in [[]] if cpu else BEST:
            record.run(f"PyTorch {' '.join(best)}, round {round}", [*torch, *best])


def table(args, record):
    """A line for each run; PyTorch's memory is what it allocated, ours what the GPU has given."""
    columns = ["run", "positions/s", "ms a step", "host ms", "first step, s", "MFU, %", "memory, GB", "kernels + products"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for path in sorted(args.out.glob("*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if "tokens_per_s" not in line:
                if "failed" in line:
                    print(f"| {path.stem}: {line['who']} | failed: {line['failed']} |{' |' * (len(columns) - 2)}")
                continue
            gpu = line.get("gpu") or {}
            first = line.get("first_step_s", line.get("first_step_ms", 0) / 1e3)
            palm = line.get("tflops_palm", gpu.get("palm_gflops", 0) / 1e3)
            memory = gpu.get("memory_bytes", (line.get("mem_gib") or 0) * 2**30 or line.get("memory_bytes") or 0) / 1e9
            asked = f"{gpu['kernels_per_step']:.0f} + {gpu['products_per_step']:.0f}" if gpu else ""
            cells = [f"{path.stem}: {line['who']}", f"{line['tokens_per_s']:.0f}", f"{line['step_ms_median']:.2f}"]
            cells += [f"{line['host_ms_per_step']:.2f}" if "host_ms_per_step" in line else "", f"{first:.1f}"]
            cells += [f"{palm / args.peak * 100:.1f}" if palm else "", f"{memory:.2f}", asked]
            print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("piece", choices=["machine", "parity", "table", *MODELS])
    parser.add_argument("program", type=Path)
    parser.add_argument("torch", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm", type=int, default=10)
    parser.add_argument("--peak", type=float, default=989.4, help="of the GPU, in bf16 TFLOP/s")
    args = parser.parse_args()
    record = None if args.piece == "table" else Record(args.out, args.piece)
    {"machine": machine, "parity": parity, "table": table}.get(args.piece, speed)(args, record)


main()
