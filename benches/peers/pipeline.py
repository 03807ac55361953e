"""One whole pipeline from a source file to tokens on disk, ours or a peer's, in one
process; says in one line of JSON what it took and what came out.

usage: pipeline.py PEER TOKENIZER.json SOURCE OUT [PROGRAM]

PEER is gigatoken, datatrove, pausedata (no pauses, as the peers) or pausedata-pauses
(a tenth of each row); the last two run PROGRAM. The CPU seconds are user and system
time of the process and its children. Peers start counting after their imports; ours
counts from the start of the program to its end, fsync included.

The digest is that of the ids in document order, without end-of-document and pauses.
"""

import glob
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

PEER, DEFINITION, SOURCE, OUT, *PROGRAM = sys.argv[1:]
PROGRAM = PROGRAM[0] if PROGRAM else "pausedata"
ROW = 2048


def gigatoken(definition, source, out):
    import awkward
    import gigatoken as peer

    yield
    tokenizer = peer.Tokenizer(definition)
    reader = peer.ParquetFileSource if source.endswith(".parquet") else peer.JsonlFileSource
    rows = tokenizer.encode_files(reader([source]), parallel=False)
    width = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    np.asarray(awkward.flatten(rows)).astype(width).tofile(f"{out}/tokens.bin")
    ends = np.cumsum(np.asarray(awkward.num(rows)), dtype=np.uint64)
    ends.tofile(f"{out}/ends.bin")
    yield lambda: np.fromfile(f"{out}/tokens.bin", width)


def datatrove(definition, source, out):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    yield
    reader = ParquetReader if source.endswith(".parquet") else JsonlReader
    folder, name = os.path.split(source)
    end, end_id = end_of_text(definition)
    steps = [
        reader(folder, glob_pattern=name),
        DocumentTokenizer(
            output_folder=out,
            tokenizer_name_or_path=definition,
            eos_token=end,
            shuffle_documents=False,
            batch_size=1000,
        ),
    ]
    LocalPipelineExecutor(pipeline=steps, tasks=1, workers=1, logging_dir=f"{out}/log").run()

    def tokens():
        (path,) = glob.glob(f"{out}/*.ds")
        with open(definition, encoding="utf-8") as file:
            vocabulary = json.load(file)
        size = len(vocabulary["model"]["vocab"]) + len(vocabulary["added_tokens"])
        ids = np.fromfile(path, np.uint16 if size <= 1 << 16 else np.uint32)
        return ids[ids != end_id]

    yield tokens


def end_of_text(definition):
    """The token that ends a document, and its id."""
    with open(definition, encoding="utf-8") as file:
        added = {token["content"]: token["id"] for token in json.load(file)["added_tokens"]}
    known = ["<|endoftext|>", "<|end_of_text|>"]
    token = next(token for token in known if token in added)
    return token, added[token]


def pausedata(definition, source, out, pause='{ policy = "none" }'):
    recipe = f"""
[tokenizer]
file = "{definition}"
[pretrain]
sources = [{{ path = "{source}", text = "text" }}]
pause = {pause}
pack = {{ seq_len = {ROW} }}
"""
    path = f"{out}/recipe.toml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(recipe)
    yield
    command = [PROGRAM, "prepare", path, "--out", f"{out}/run", "--threads", "1", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    dataset = f"{out}/run/data/pretrain"

    def tokens():
        with open(f"{dataset}/manifest.json", encoding="utf-8") as file:
            manifest = json.load(file)
        width = {"u16": np.uint16, "u32": np.uint32}[manifest["id_width"]]
        shards = manifest["splits"]["train"]["shards"]
        names = [f"{dataset}/shards/{shard['name']}.bin" for shard in shards]
        ids = np.concatenate([np.fromfile(name, width, offset=1024) for name in names])
        reserved = manifest["tokenizer"]["reserved"]
        return ids[~np.isin(ids, list(reserved.values()))]

    yield tokens


def used():
    parts = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(part) for part in parts]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def peak_bytes(peer):
    """The largest memory of one process; ours is a child of this one."""
    part = resource.RUSAGE_CHILDREN if peer.startswith("pausedata") else resource.RUSAGE_SELF
    return resource.getrusage(part).ru_maxrss * 1024


def pausedata_pauses(definition, source, out):
    return pausedata(definition, source, out, '{ policy = "random", fraction = 0.1 }')


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    pipeline = globals()[PEER.replace("-", "_")]
    work = pipeline(os.path.abspath(DEFINITION), os.path.abspath(SOURCE), OUT)
    next(work)
    before, start = used(), time.perf_counter()
    tokens = next(work)
    cpu, wall = used() - before, time.perf_counter() - start
    memory = peak_bytes(PEER)
    ids = tokens().astype("<u4")
    said = {
        "passes": [{"cpu_seconds": cpu, "wall_seconds": wall}],
        "memory": memory,
        "tokens": len(ids),
        "digest": hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest(),
    }
    print(json.dumps(said))
    shutil.rmtree(OUT)


main()
