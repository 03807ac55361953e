#!/bin/bash
# Sets up a bench folder: the peers, in a Python environment and as a Rust program.
#
#   benches/peers/prepare.sh BENCH
#
# What it needs there already: vocab/*.json, each a `tokenizer.json`, and
# corpus/c.jsonl, one JSON object with a field `text` a line.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
bench=$(readlink -f "$1")

[ -d "$bench/venv" ] || python3 -m venv "$bench/venv"
"$bench/venv/bin/pip" install --quiet \
  'gigatoken==0.10.0' 'tokenizers==0.23.3' 'tiktoken==0.14.*' 'datatrove==0.10.1' \
  'transformers==5.*' awkward numpy pyarrow zstandard orjson blake3

mkdir -p "$bench/bin"
cargo build --release --manifest-path "$here/tokenizers-rc/Cargo.toml" --target-dir "$bench/target"
cp "$bench/target/release/tokenizers-rc" "$bench/bin/"
