"""Encodes the first megabytes of a JSONL corpus with a peer from Python, and says in
one line of JSON how long that took and what came out.

usage: encode.py PEER TOKENIZER.json CORPUS.jsonl MEGABYTES PASSES

The CPU seconds are those of the whole process during the encode call: reading the
corpus, loading the tokenizer and the digest stand outside. The digest is BLAKE3 of all
ids in order, as little-endian u32; the fields are those of `pausedata bench tokenize`.
"""

import json
import os
import sys
import time

# One thread, so that CPU seconds compare; set before anything reads them.
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import blake3
import numpy as np


def gigatoken(definition):
    import awkward
    import gigatoken

    tokenizer = gigatoken.Tokenizer(definition)

    def flat(rows):
        return np.asarray(awkward.flatten(rows))

    return lambda documents: tokenizer.encode_batch(documents, parallel=False), flat


def tokenizers(definition):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(definition)

    def encode(documents):
        return tokenizer.encode_batch_fast(documents, add_special_tokens=False)

    return encode, lambda rows: lists([row.ids for row in rows])


def tiktoken(definition):
    import tiktoken

    with open(definition, encoding="utf-8") as file:
        described = json.load(file)
    special = {token["content"] for token in described["added_tokens"]}
    to_byte = {letter: byte for byte, letter in enumerate(byte_letters())}
    ranks = {
        bytes(to_byte[letter] for letter in token): rank
        for token, rank in described["model"]["vocab"].items()
        if token not in special
    }
    encoding = tiktoken.Encoding(
        "peer",
        pat_str=pattern(described["pre_tokenizer"]),
        mergeable_ranks=ranks,
        special_tokens={},
    )
    return lambda documents: [encoding.encode_ordinary(text) for text in documents], lists


def pattern(pre_tokenizer):
    """The expression that cuts text into pieces; that of GPT-2 where none is spelt out."""
    for part in [pre_tokenizer, *pre_tokenizer.get("pretokenizers", [])]:
        if part["type"] == "Split":
            return part["pattern"]["Regex"]
    return r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_letters():
    """The letter that stands for each byte in a byte-level vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(0x100 + index) for index, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def lists(rows):
    count = sum(len(row) for row in rows)
    return np.fromiter((id for row in rows for id in row), np.uint32, count)


def read(corpus, megabytes):
    documents, size = [], 0
    with open(corpus, encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            length = len(text.encode())
            if megabytes * 1e6 < size + length and size:
                break
            documents.append(text)
            size += length
    return documents, size


def main():
    peer, definition, corpus, megabytes, passes = sys.argv[1:]
    documents, size = read(corpus, float(megabytes))
    start = time.perf_counter()
    makers = {"gigatoken": gigatoken, "tokenizers": tokenizers, "tiktoken": tiktoken}
    encode, flat = makers[peer](definition)
    load = {"wall_seconds": time.perf_counter() - start}
    took, rows = [], None
    for _ in range(int(passes)):
        del rows
        before, start = time.process_time(), time.perf_counter()
        rows = encode(documents)
        cpu, wall = time.process_time() - before, time.perf_counter() - start
        took.append({"cpu_seconds": cpu, "wall_seconds": wall})
    ids = flat(rows).astype("<u4")
    said = {
        "documents": len(documents),
        "bytes": size,
        "tokens": len(ids),
        "digest": blake3.blake3(ids.tobytes()).hexdigest(),
        "load": load,
        "passes": took,
    }
    print(json.dumps(said))


main()
