"""Other programs read what pausedata wrote, and find the rows that it says are there.

    python tests/python/readers.py path/to/pausedata FOLDER

Prepares `pipelines/sample.toml` in both formats below FOLDER, converts it to every form, and
reads all of it with numpy, pyarrow, polars and Hugging Face `datasets`. Each reader takes the
digest of the rows anew; it must be the one that `pausedata verify --json` prints.
Runs in the root of the repository, after `pip install -r tests/python/requirements.txt`.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import polars as pl
import pyarrow.parquet as pq

FORMS = ["binary", "parquet", "parquet-compact", "megatron", "nanogpt"]
UNSCORED = -100


def digest(rows):
    """The digest of rows as schemas/parquet-v1.md defines it; a row is (ids, labels)."""
    whole = hashlib.sha256()
    for ids, labels in rows:
        ids, labels = np.asarray(ids, "<u4"), np.asarray(labels, "<i4")
        length = np.asarray([len(ids)], "<u4")
        row = length.tobytes() + ids.tobytes() + labels.tobytes()
        whole.update(hashlib.sha256(row).digest())
    return whole.hexdigest()


def labels_of(ids, prefix, pause):
    """What the loss rule makes of ids: a twin of the program's own."""
    ids = np.asarray(ids).astype("<i4")
    scored = (ids != pause) & (np.arange(len(ids)) >= max(prefix, 1))
    return np.where(scored, ids, UNSCORED)


class Index:
    """The parts of an `.idx` that rows need."""

    def __init__(self, path, finetune=False):
        data = np.fromfile(path, "u1")
        at = lambda kind, n, offset: np.frombuffer(data, kind, n, offset)
        assert bytes(data[:9]) == b"MMIDIDX\0\0", f"{path} is no index"
        self.kind = {8: "<u2", 4: "<i4"}[int(data[17])]
        rows = int(at("<u8", 1, 18)[0])
        self.lengths = at("<i4", rows, 34)
        self.pointers = at("<i8", rows, 34 + 4 * rows)
        self.prefixes = np.zeros(rows, "<u4")
        if finetune:
            # The count of blocks is the third of the eight numbers that end the file.
            blocks = int(at("<u8", 1, len(data) - 64 + 16)[0])
            self.prefixes = at("<u4", rows, 34 + 12 * rows + 8 * (rows + 1) + 8 * blocks)


class Proof:
    """Counts what holds and shouts about what does not."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, found, expected):
        if found == expected:
            self.passed += 1
            print(f"ok      {name}: {str(found)[:16]}")
        else:
            self.failed += 1
            print(f"FAILED  {name}: expected {expected}, found {found}")


def numpy_rows(shards, index, ids_file, kind, pause):
    """Rows that are mapped: an index, and a file with numbers."""
    ids = np.memmap(ids_file, "u1", "r")
    size = np.dtype(kind).itemsize
    for length, start, prefix in zip(index.lengths, index.pointers, index.prefixes):
        row = ids[start : start + int(length) * size].view(kind) if length else np.zeros(0, kind)
        yield row, labels_of(row, int(prefix), pause)


def arrays(pipe):
    """The arrays of a pipe, as the help of `pausedata load` has it."""
    while pipe.peek(1):
        np.lib.format.read_magic(pipe)
        shape, _, kind = np.lib.format.read_array_header_1_0(pipe)
        data = pipe.read(math.prod(shape) * kind.itemsize)
        yield np.frombuffer(data, kind).reshape(shape)


def loaded_rows(program, dataset, split, pad):
    """The rows that `pausedata load` writes, in batches of seven."""
    command = [program, "load", dataset, "--rows", "7", "--split", split]
    command = [*map(str, command), "--epochs", "1", "--sequential"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for ids, targets, weights in zip(*[arrays(process.stdout)] * 3):
            assert np.array_equal(weights > 0, targets != UNSCORED)
            for row, scored in zip(ids, targets):
                row = row[row != pad]
                yield row, np.concatenate([[UNSCORED], scored])[: len(row)]
    assert process.returncode == 0


def in_order(folder, split, ending):
    return sorted(folder.glob(f"{split}-*.{ending}"))


def table_rows(ids, labels):
    return zip(ids, labels)


def check_columns(proof, name, table, finetune, reserved):
    """Mask, document numbers and prefix say what follows from the ids."""
    wrong = 0
    for row in table.to_pylist():
        ids = np.asarray(row["input_ids"], "<i4")
        ended = np.cumsum(ids == reserved["end"])
        documents = np.concatenate([[0], ended[:-1]]) if len(ids) else ended
        labels = labels_of(ids, row["prefix"] if finetune else 0, reserved["pause"])
        wrong += not np.array_equal(row["labels"], labels)
        wrong += not np.array_equal(row["loss_mask"], labels != UNSCORED)
        wrong += not np.array_equal(row["doc_ids"], documents)
    proof.check(f"{name}: labels, masks and documents follow from the ids", wrong, 0)


def parquet_readers(folder, split, cache):
    """The rows of Parquet files as pyarrow, polars and datasets read them."""
    files = [str(path) for path in in_order(folder, split, "parquet")]
    if not files:
        return
    table = pq.read_table(files)
    rows = table_rows(table["input_ids"].to_pylist(), table["labels"].to_pylist())
    yield "pyarrow", rows
    frame = pl.scan_parquet(files).select("input_ids", "labels").collect()
    yield "polars", table_rows(frame["input_ids"].to_list(), frame["labels"].to_list())
    loaded = datasets.load_dataset(
        "parquet", data_files={split: files}, split=split, cache_dir=str(cache)
    )
    loaded = loaded.with_format("numpy")
    yield "datasets", ((row["input_ids"], row["labels"]) for row in loaded)


def check_stage(proof, program, run, folder, stage):
    finetune = stage == "finetune"
    source = folder / "binary-run" / "data" / stage
    manifest = json.loads((source / "manifest.json").read_text())
    reserved = manifest["tokenizer"]["reserved"]
    pause = reserved["pause"]
    kind = {"u16": "<u2", "u32": "<u4"}[manifest["id_width"]]
    content = json.loads(run("verify", source, "--json"))["content"]
    prepared = folder / "parquet-run" / "data" / stage
    again = json.loads(run("verify", prepared, "--json"))["content"]
    proof.check(f"{stage}: both formats hold the same rows", again, content)
    forms = {}
    for form in FORMS:
        forms[form] = folder / f"{stage}-{form}"
        converted = json.loads(run("convert", source, "--to", form, "--out", forms[form], "--json"))
        proof.check(f"{stage}: converted to {form}", converted["content"], content)
    for split, expected in content.items():
        if manifest["splits"][split]["totals"]["rows"] == 0:
            continue
        name = lambda reader, form: f"{stage} {split}: {reader} reads {form}"
        binary, parquet = forms["binary"] / "shards", forms["parquet"] / "shards"

        rows = loaded_rows(program, source, split, reserved["pad"])
        proof.check(f"{stage} {split}: numpy reads what load writes", digest(rows), expected)

        def mapped(shards, ending, kind):
            for path in in_order(shards, split, ending):
                index = Index(path.with_suffix(".idx"), finetune)
                yield from numpy_rows(shards, index, path, kind, pause)

        proof.check(name("numpy", "binary"), digest(mapped(binary, "bin", kind)), expected)
        rows = mapped(parquet, "parquet", "<u4")
        proof.check(name("numpy", "parquet, mapped"), digest(rows), expected)

        beside = [Index(path, finetune) for path in in_order(binary, split, "idx")]
        prefixes = np.concatenate([index.prefixes for index in beside])
        lengths = np.concatenate([index.lengths for index in beside])
        megatron = Index(forms["megatron"] / f"{split}.idx")
        megatron.prefixes = prefixes
        ids = forms["megatron"] / f"{split}.bin"
        rows = numpy_rows(None, megatron, ids, megatron.kind, pause)
        proof.check(name("numpy", "megatron"), digest(rows), expected)

        ids = np.fromfile(forms["nanogpt"] / {"train": "train.bin"}.get(split, "val.bin"), "<u2")
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        rows = ((row, labels_of(row, int(prefix), pause)) for row, prefix in zip(rows, prefixes))
        proof.check(name("numpy", "nanogpt"), digest(rows), expected)

        compact = forms["parquet-compact"]
        for form, where in [("parquet", parquet), ("parquet-compact", compact)]:
            for reader, rows in parquet_readers(where, split, folder / "cache"):
                proof.check(name(reader, form), digest(rows), expected)
            table = pq.read_table(in_order(where, split, "parquet"))
            check_columns(proof, f"{stage} {split} {form}", table, finetune, reserved)


RECORD = np.dtype([("inserted", "u1"), ("target", "<u4"), ("weight", "<f4")])
STORED = '{policy="stride",every=7,count=2,token={filler="."},target="repeat",target_weight=0.5}'


def stored_labels(path, lengths):
    """The labels of rows whose targets lie in an `.aux`, as schemas/shard-v2.md has it."""
    records = np.memmap(path, RECORD, "r", 64, (int(lengths.sum()),))
    assert {0.5, 1.0} <= set(np.unique(records["weight"]).tolist()), "no weights are stored"
    for row in np.split(records, np.cumsum(lengths)[:-1]):
        targets = np.where(row["weight"] > 0, row["target"].astype("<i4"), UNSCORED)
        yield np.concatenate([[UNSCORED], targets])[: len(row)]


def check_stored(proof, run, folder):
    """Targets, weights and fillers: stored beside the ids, and the labels of Parquet files."""
    run("prepare", "pipelines/sample.toml", "--out", folder / "stored-run", "--only", "pretrain",
        "--set", f"pretrain.pause={STORED}")
    source = folder / "stored-run" / "data" / "pretrain"
    report = json.loads(run("verify", source, "--json"))
    assert report["failed"] == 0
    expected = report["content"]["train"]
    beside = {"binary": "shards", "megatron": "pausedata/shards", "nanogpt": "pausedata/shards"}
    for form in FORMS:
        where = folder / f"stored-{form}"
        run("convert", source, "--to", form, "--out", where)
        back = folder / f"stored-{form}-back"
        run("convert", where, "--to", "binary", "--out", back)
        again = json.loads(run("verify", back, "--json"))["digest"]
        proof.check(f"stored targets: there and back as {form}", again, report["digest"])
        if form in beside:
            records = where / beside[form]
            lengths = [Index(path).lengths for path in in_order(records, "train", "idx")]
            files = in_order(records, "train", "aux")
            labels = [row for file, of in zip(files, lengths) for row in stored_labels(file, of)]
            files = in_order(where / "shards", "train", "bin") or [where / "train.bin"]
            start = 1024 if form == "binary" else 0
            ids = np.concatenate([np.fromfile(path, "<u2", offset=start) for path in files])
            rows = zip(np.split(ids, np.cumsum(np.concatenate(lengths))[:-1]), labels)
        else:
            files = in_order(where / ("shards" if form == "parquet" else ""), "train", "parquet")
            table = pq.read_table(files)
            rows = table_rows(table["input_ids"].to_pylist(), table["labels"].to_pylist())
        proof.check(f"stored targets: labels of {form}", digest(rows), expected)


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)

    def run(*arguments):
        command = [program, "--quiet", *map(str, arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    for form in ["binary", "parquet"]:
        formats = [f"{stage}.pack.format={form}" for stage in ("pretrain", "finetune")]
        # Several shards a split, so that their order is proved too.
        options = [*formats, "pretrain.pack.shard_tokens=8192"]
        options = [word for option in options for word in ("--set", option)]
        run("prepare", "pipelines/sample.toml", "--out", folder / f"{form}-run", *options)
    proof = Proof()
    for stage in ["pretrain", "finetune"]:
        check_stage(proof, program, run, folder, stage)
    check_stored(proof, run, folder)
    print(f"{proof.passed} passed, {proof.failed} failed")
    sys.exit(1 if proof.failed else 0)


if __name__ == "__main__":
    main()
