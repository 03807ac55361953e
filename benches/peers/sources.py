"""Writes the first megabytes of a JSONL corpus as .jsonl, .jsonl.gz, .jsonl.zst and
.parquet, and prints the bytes of text in it.

usage: sources.py CORPUS.jsonl MEGABYTES FOLDER
"""

import gzip
import json
import os
import sys

import pyarrow
import pyarrow.parquet
import zstandard


def main():
    corpus, megabytes, folder = sys.argv[1:]
    lines, texts, size = [], [], 0
    with open(corpus, "rb") as file:
        for line in file:
            text = json.loads(line)["text"]
            length = len(text.encode())
            if float(megabytes) * 1e6 < size + length and size:
                break
            lines.append(line)
            texts.append(text)
            size += length
    raw = b"".join(lines)
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/text.jsonl", "wb") as file:
        file.write(raw)
    with gzip.open(f"{folder}/text.jsonl.gz", "wb", 6) as file:
        file.write(raw)
    with open(f"{folder}/text.jsonl.zst", "wb") as file:
        file.write(zstandard.ZstdCompressor(level=3).compress(raw))
    table = pyarrow.table({"text": texts})
    path = f"{folder}/text.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=1024)
    print(size)


main()
