"""The same training run by pausedata and by PyTorch: compared, then timed in turn.

    python benches/peers/train.py PROGRAM TORCH_GPT.py FOLDER [--rounds N] [--only NAME ...] [--parity]

PROGRAM is a release build of pausedata; TORCH_GPT.py a PyTorch trainer (run by the Python
that runs this) that writes and reads the folders of arrays of `pausedata bench parity
--help` by --dump and --load, and prints a JSON object last; benches/train.md says what else
it must agree on. FOLDER takes a few hundred MB. For every run below, PyTorch makes weights
and batches once; both then train on these, each time as a process of its own. Prints raw
results as JSON lines on stderr and Markdown tables on stdout. `--parity` compares only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

# name: (preset of the PyTorch trainer, more of its arguments, threads, steps, steps to warm up);
# where the name says bf16, matrix products are: weights and batches are made in fp32
SPEED = {
    "10.9 M GPT-2, 1 thread": ("tiny", ["--arch", "gpt2", "--bias", "1"], 1, 16, 4),
    "10.9 M GPT-2, 2 threads": ("tiny", ["--arch", "gpt2", "--bias", "1"], 2, 16, 4),
    "10.8 M Llama, 1 thread": ("tiny", ["--arch", "llama"], 1, 16, 4),
    "micro Llama, 1 thread": ("micro", ["--arch", "llama"], 1, 400, 100),
    "micro GPT-2, 1 thread": ("micro", ["--arch", "gpt2", "--bias", "1"], 1, 400, 100),
    "10.9 M GPT-2, bf16, 1 thread": ("tiny", ["--arch", "gpt2", "--bias", "1"], 1, 16, 4),
    "10.9 M GPT-2, bf16, 2 threads": ("tiny", ["--arch", "gpt2", "--bias", "1"], 2, 16, 4),
    "micro Llama, bf16, 1 thread": ("micro", ["--arch", "llama"], 1, 400, 100),
    "10.9 M GPT-2, half a row pauses and prefix, 1 thread": (
        "tiny", ["--arch", "gpt2", "--bias", "1", "--pause-suffix", "50"], 1, 16, 4),
}  # fmt: skip

PARITY = {
    "GPT-2": ["--arch", "gpt2", "--bias", "1", "--pause-frac", "0.1"],
    "GPT-2, untied, suffix pauses": ["--arch", "gpt2", "--bias", "1", "--tie", "0", "--pause-suffix", "10"],
    "Llama": ["--arch", "llama", "--pause-frac", "0.1"],
    "Llama, two micro-batches, suffix pauses": ["--arch", "llama", "--pause-suffix", "10", "--accum", "2"],
}

SHAPES = {"micro": (2, 2, 64, 64), "tiny": (6, 6, 384, 256)}


def recipe(preset, arguments, steps):
    """The recipe of a run of the PyTorch trainer."""
    value = lambda name, default: arguments[arguments.index(name) + 1] if name in arguments else default
    layers, heads, d, length = SHAPES[preset]
    llama = value("--arch", "llama") == "llama"
    ff = (8 * d // 3 + 63) // 64 * 64 if llama else 4 * d
    kind = ("rope", "rms-norm", "1e-6", "swi-glu", "false") if llama else ("learned", "layer-norm", "1e-5", "gelu", "true")
    batch = 8 * length
    return f"""\
[tokenizer]
train = {{ vocab_size = 509 }}
[model]
n_layers = {layers}
n_heads = {heads}
d_model = {d}
d_ff = {ff}
positions = "{kind[0]}"
norm = "{kind[1]}"
norm_eps = {kind[2]}
activation = "{kind[3]}"
bias = {kind[4]}
tied = {"true" if value("--tie", "1") == "1" else "false"}
[pretrain]
sources = [{{ path = "none" }}]
pack = {{ seq_len = {length} }}
[pretrain.train]
steps = {steps}
batch_tokens = {batch * int(value("--accum", "1"))}
micro_batch_tokens = {batch}
lr = 6e-4
schedule = "constant"
decay_embeddings = true
"""


def run(command):
    """The JSON object that a command prints last, with what the system counted for it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [line for line in process.stdout if line.strip()]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return json.loads(lines[-1]) | {"memory": usage.ru_maxrss * 1024}


def prepare(args, name, preset, arguments, steps, script=None):
    folder = Path(args.folder) / "".join(c if c.isalnum() else "-" for c in name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch = [sys.executable, script or args.torch, "--preset", preset, *arguments, "--quiet"]
    run([*torch, "--dump", folder, "--steps", str(steps)])
    (folder / "recipe.toml").write_text(recipe(preset, arguments, steps))
    return folder, torch


def compare(args):
    """Both ways: their run done by us, then one that we began done by them and by us."""
    print("| run | begun by | loss of step 1 | worst gradient | 30 losses | equal |")
    print("| --- | --- | --: | --: | --: | --- |")
    for name, arguments in PARITY.items():
        theirs, torch = prepare(args, name, "micro", arguments, 30)
        ours, back = theirs.with_name(theirs.name + "-ours"), theirs.with_name(theirs.name + "-back")
        for folder in (ours, back):
            shutil.rmtree(folder, ignore_errors=True)
        pause = ["--set", 'pretrain.pause={policy="random", fraction=0.1}']
        run([args.program, "bench", "train", theirs / "recipe.toml", *pause, "--dump", ours, "--json"])
        run([*torch, "--load", ours, "--dump", back, "--steps", "30"])
        shutil.copy(ours / "recipe.toml", back)
        for folder, who in ((theirs, "PyTorch"), (back, "pausedata")):
            command = [args.program, "bench", "parity", folder, "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if not done.stdout:
                sys.exit(f"failed: {' '.join(map(str, command))}")
            found = json.loads(done.stdout)
            curve = found["curve_difference"][0]
            row = [name, who, f"{found['loss_difference']:.1e}", f"{found['gradient'][1]:.1e}", f"{curve:.1e}"]
            print("|", " | ".join([*row, "yes" if found["equal"] else "**no**"]), "|", flush=True)


def time(args, name):
    preset, arguments, threads, steps, warm = SPEED[name]
    folder, torch = prepare(args, name, preset, arguments, steps)
    theirs = [*torch, "--load", folder, "--steps", str(steps), "--skip", str(warm), "--threads", str(threads), "--measure-peak"]
    ours = [args.program, "--json", "--threads", str(threads), "bench", "train", "--load", folder, "--warm", str(warm), "--ceiling"]
    if "bf16" in name:
        ours, theirs = [*ours, "--kernels", "bf16"], [*theirs, "--dtype", "bf16"]
    found = {"pausedata": [], "PyTorch": []}
    for turn in range(args.rounds):
        for peer, command in (("pausedata", ours), ("PyTorch", theirs)):
            result = run(command)
            found[peer].append(result)
            print(json.dumps({"run": name, "round": turn, "peer": peer} | result), file=sys.stderr, flush=True)
    return found


def table(name, found):
    ours, theirs = found["pausedata"], found["PyTorch"]
    middle = lambda runs, key: statistics.median(run[key] for run in runs)
    print(f"\n### {name}\n\n|  | pausedata | PyTorch | ratio (range over rounds) |\n| --- | --: | --: | --: |")
    for title, key, form in (
        ("tokens a second of CPU", "tokens_per_cpu_s", "{:.0f}"),
        ("tokens a second", "tokens_per_s", "{:.0f}"),
        ("peak memory of the process, MB", "memory", "{:.0f}"),
    ):
        scale = 1e-6 if key == "memory" else 1
        ratios = [a[key] / b[key] for a, b in zip(ours, theirs)]
        cells = [form.format(middle(runs, key) * scale) for runs in (ours, theirs)]
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {title} | {cells[0]} | {cells[1]} | {span} |")
    per_token = ours[0]["flops_per_token"]
    peaks = [statistics.median(run["rates"]["ceiling"] for run in ours), 1e3 * middle(theirs, "measured_matmul_tflops")]
    print(f"| 2048 x 2048 products, GFLOP/s of CPU | {peaks[0]:.1f} | {peaks[1]:.1f} | |")
    for title, key in (("6N", "six_n"), ("6N + 12LTD", "palm")):
        rates = [middle(runs, "tokens_per_cpu_s") * per_token[key] / 1e9 for runs in (ours, theirs)]
        shares = [f"{100 * rate / peak:.0f} %" for rate, peak in zip(rates, peaks)]
        print(f"| of that reached, by {title} | {shares[0]} | {shares[1]} | |")
    print(f"| first step, ms | {middle(ours, 'first_step_ms'):.0f} | {1e3 * middle(theirs, 'first_step_s'):.0f} | |")
    print(f"| loss of the first and the last step | {ours[0]['loss_first']:.5f}, {ours[0]['loss_last']:.5f} | {theirs[0]['loss_first']:.5f}, {theirs[0]['loss_last']:.5f} | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("torch")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--parity", action="store_true")
    args = parser.parse_args()
    args.program = os.path.abspath(args.program)
    if args.parity:
        return compare(args)
    for name in SPEED:
        if not args.only or any(part in name for part in args.only):
            table(name, time(args, name))


main()
