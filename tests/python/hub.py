"""Models go to Hugging Face `transformers` and come from it, and compute the same.

    python tests/python/hub.py path/to/pausedata FOLDER

Makes small random models with `transformers`, takes each over with `pausedata import`, and
compares logits; finetunes it for some steps with pauses, hands it on with `pausedata export`,
loads it with `AutoModelForCausalLM` and `AutoTokenizer`, and compares logits, ids and a greedy
answer. Logits must be equal within 1e-4. Needs no network; runs anywhere, after
`pip install -r tests/python/hub-requirements.txt`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4
PAUSES = 4
PROMPTS = ["Q: 3 plus 4?\nA:", "a river, an old mill and 12 geese", "é"]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 500000.0,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1000.0,
}
SHARP = {
    **YARN, "factor": 2.0, "beta_fast": 6.0, "beta_slow": 0.5, "truncate": False, "mscale": 1.5, "mscale_all_dim": 0.7,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
WIDE = {**SHAPE, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}

# Class, settings, and how it is saved: in files of so many bytes, in which precision.
MODELS = {
    "llama": ("Llama", {**SHAPE, "tie_word_embeddings": False}, "5MB", torch.float32),
    "llama3": ("Llama", {**SHAPE, "rope_parameters": LLAMA3}, "20KB", torch.bfloat16),
    "llama-biased": ("Llama", {**WIDE, "tie_word_embeddings": True}, "5MB", torch.float32),
    "mistral": ("Mistral", {**SHAPE, "sliding_window": 7}, "5MB", torch.float16),
    "qwen2": ("Qwen2", {**SHAPE, "tie_word_embeddings": True}, "20KB", torch.float32),
    "qwen2-untied": ("Qwen2", {**SHAPE, "tie_word_embeddings": False}, "5MB", torch.bfloat16),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 8, "tie_word_embeddings": True}, "5MB", torch.float32),
    "qwen3-wide": ("Qwen3", {**SHAPE, "head_dim": 12, "rope_parameters": YARN}, "5MB", torch.bfloat16),
    "qwen2-narrow": ("Qwen2", {**SHAPE, "head_dim": 4, "rope_parameters": SHARP}, "5MB", torch.float32),
    "mistral-wide": ("Mistral", {**SHAPE, "head_dim": 20, "rope_parameters": LINEAR}, "5MB", torch.float32),
    "llama-odd": ("Llama", {**SHAPE, "hidden_size": 36, "num_attention_heads": 6, "head_dim": 10,
                            "rope_parameters": DYNAMIC}, "5MB", torch.float32),
    "gpt2": ("GPT2", GPT2, "5MB", torch.float32),
}

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

RECIPE = """
seed = 3
[model]
from = "../model"
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = 4 }
pack = { seq_len = 64 }
train = { steps = 8, batch_tokens = 512, lr = 2e-3, checkpoint_every = 8 }
"""

FRESH = """
seed = 3
[tokenizer]
train = { vocab_size = 300 }
[model]
preset = "micro"
[pretrain]
sources = [{ path = "questions.jsonl", text = "question" }]
pause = { policy = "random", fraction = 0.1 }
pack = { seq_len = 64 }
train = { steps = 6, batch_tokens = 512, lr = 2e-3, attention = "document" }
"""


# What else recipes say.
BEGIN = {"llama-odd": 'begin = "<s>"\n'}
FRESHLY = {
    "fresh": [],
    "fresh-window": ["--set", "model.window=9"],
    "fresh-wide": ["--set", "model.head_dim=24", "--set", "model.qk_norm=true"],
}


def run(program, *arguments, code=0):
    """What the program says as JSON, of success or of failure."""
    said = subprocess.run([program, "--json", *map(str, arguments)], capture_output=True, text=True)
    assert said.returncode == code, f"pausedata {arguments}: {said.returncode}\n{said.stderr}"
    return json.loads(said.stderr.splitlines()[-1] if code else said.stdout)


def questions(path):
    lines = [{"question": f"{i} plus {i % 7}?", "answer": i + i % 7} for i in range(80)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tokenizer(folder, kind):
    """A byte-level BPE; Llama's begins every text, GPT-2's ends and begins with one token."""
    end = "<|endoftext|>" if kind == "GPT2" else "</s>"
    specials = [end] if kind == "GPT2" else ["<s>", end]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind.startswith("Qwen"):
        # `AutoTokenizer` takes every Qwen's text apart so, whatever tokenizer.json says.
        bpe.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([f"Q: {i} plus {i % 7}?\nA: the river and the mill" for i in range(80)], trainer)
    if kind == "Llama":
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
        )
    bpe.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": specials[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return bpe


def make(folder, kind, settings, shards, dtype):
    """A random model with large weights, so that every part of it counts."""
    folder.mkdir(parents=True)
    bpe = tokenizer(folder, kind)
    # Some rows more than ids, as real models have.
    ids = {"vocab_size": bpe.get_vocab_size() + 3, "eos_token_id": 0 if kind == "GPT2" else 1}
    config = getattr(transformers, f"{kind}Config")(**settings, **ids, bos_token_id=0)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.to(dtype).save_pretrained(folder, max_shard_size=shards)
    # Loaded again: what it computes besides its weights was rounded with them.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def ours(program, folder, prompt, pauses, scratch):
    """Our ids, logits and greedy answer."""
    path = scratch / "logits.npy"
    said = run(
        program, "generate", folder, "--prompt", prompt.replace("\n", "\\n"), "--pauses", pauses,
        "--logits", path, "--max-tokens", 12,
    )  # fmt: skip
    return said, np.load(path)


def compare(name, found, expected):
    worst = float(np.abs(found - expected).max())
    size = float(np.abs(expected).max())
    assert size > 0.5, f"{name}: logits of {size} prove nothing"
    assert worst < TOLERANCE, f"{name}: logits differ by {worst}"
    return worst


def check_import(program, folder, model):
    """The imported model computes what it did; new tokens have mean rows."""
    imported = run(program, "import", folder / "source", "--out", folder / "model")
    known = imported["rows_before"]
    new = [id for id, _ in imported["new_tokens"]]
    worst = 0.0
    for prompt in PROMPTS:
        said, logits = ours(program, folder / "model", prompt, 0, folder)
        hub = AutoTokenizer.from_pretrained(folder / "source")
        assert said["read"] == hub(prompt).input_ids, f"{folder.name}: {said['read']}"
        expected = logits_of(model, said["read"])
        old = [id for id in range(known) if id not in new]
        worst = max(worst, compare(f"{folder.name} imported", logits[:, old], expected[:, old]))
        ids = Tokenizer.from_file(str(folder / "source/tokenizer.json")).get_vocab_size()
        mean = expected[:, :ids].mean(axis=1, keepdims=True)
        assert np.abs(logits[:, new] - mean).max() < TOLERANCE, "new rows are no mean"
    return worst


def check_export(program, folder, trained, dtype="f32"):
    """What is exported computes what the checkpoint does, in `transformers`."""
    out = folder / f"exported-{dtype}"
    exported = run(program, "export", trained, "--out", out, "--dtype", dtype)
    model, about = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype="auto")
    for kind in ["missing_keys", "unexpected_keys", "mismatched_keys"]:
        assert not about[kind], f"{folder.name}: {kind} {about[kind]}"
    assert type(model).__name__ == exported["architecture"]
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    assert all(parameter.dtype == kinds[dtype] for parameter in model.parameters())
    hub = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert hub.convert_tokens_to_ids("<|pause|>") == exported["reserved"]["pause"]
    assert hub.eos_token_id == exported["reserved"]["end"]
    worst = 0.0
    for prompt in PROMPTS:
        for pauses in [0, PAUSES]:
            said, logits = ours(program, trained, prompt, pauses, folder)
            ids = hub(prompt).input_ids + [exported["reserved"]["pause"]] * pauses
            assert said["read"] == ids, f"{folder.name}: ids {said['read']} and {ids}"
            expected = logits_of(model, ids)
            if dtype != "f32":
                worst = max(worst, float(np.abs(logits - expected).max()))
                assert worst < 0.5, f"{folder.name} {dtype}: logits differ by {worst}"
                continue
            worst = max(worst, compare(f"{folder.name} exported", logits, expected))
            answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
            answer = answer[0].tolist()[len(ids) :]
            answer = answer[: answer.index(hub.eos_token_id)] if hub.eos_token_id in answer else answer
            assert said["ids"] == answer, f"{folder.name}: {said['ids']} and {answer}"
            assert said["text"] == hub.decode(answer), f"{folder.name}: {said['text']!r}"
    return worst


def check_refusals(program, folder):
    """A key that changes the results, or a tensor too many or too few, is named."""
    source = folder / "source"
    for key, value in [
        ("hidden_act", "gelu"), ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0, "beta_fast": 1.0}),
        ("partial_rotary_factor", 0.5), ("head_dim", 16), ("final_logit_softcapping", 30.0),
        ("attention_bias", True), ("num_hidden_layers", 2), ("num_hidden_layers", 4),
        ("intermediate_size", 64), ("tie_word_embeddings", True), ("model_type", "gemma2"),
    ]:  # fmt: skip
        broken = folder / "broken"
        shutil.copytree(source, broken)
        config = json.loads((source / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps({**config, key: value}))
        said = run(program, "import", broken, "--out", folder / "refused", code=2)
        named = {"num_hidden_layers": "layers.", "intermediate_size": "gate_proj", "attention_bias": "mlp_bias", "head_dim": "q_proj"}
        assert named.get(key, key) in said["error"], said
        assert not (folder / "refused").exists()
        shutil.rmtree(broken)
    run(program, "import", source, "--out", folder / "model", code=2)
    run(program, "import", source, "--out", folder / "model", "--force")


def main(program, folder):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder.mkdir(parents=True)
    passed = 0
    for name, (kind, settings, shards, dtype) in MODELS.items():
        own = folder / name
        model = make(own / "source", kind, settings, shards, dtype)
        imported = check_import(program, own, model)
        questions(own / "questions.jsonl")
        (own / "recipe.toml").write_text(BEGIN.get(name, "") + RECIPE)
        place = ["--out", own / "run", "--data-root", own]
        run(program, "run", own / "recipe.toml", *place)
        exported = check_export(program, own, own / "run/train/finetune")
        print(f"{name}: logits differ by {imported:.1e} imported, {exported:.1e} exported")
        passed += 2
    for dtype in ["bf16", "f16"]:
        check_export(program, own, own / "run/train/finetune", dtype)
    check_refusals(program, folder / "llama")
    for name, keys in FRESHLY.items():
        own = folder / name
        own.mkdir()
        questions(own / "questions.jsonl")
        (own / "recipe.toml").write_text(FRESH)
        run(program, "run", own / "recipe.toml", "--out", own / "run", "--data-root", own, *keys)
        exported = check_export(program, own, own / "run/train/pretrain")
        print(f"{name}: logits differ by {exported:.1e} exported")
        passed += 1
    print(f"{passed + 3} passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
