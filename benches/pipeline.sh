#!/bin/bash
# From a source file to tokens on disk on one thread, ours and the peers' in turn, round
# after round.
#
#   PROGRAM=target/release/pausedata benches/pipeline.sh BENCH [ROUNDS] > raw.jsonl
#   python3 benches/peers/table.py raw.jsonl
#
# BENCH is a folder that benches/peers/prepare.sh set up. TOKENIZERS, SIZES (in MB of
# text), SOURCES (endings) and PEERS narrow it down; SLOW peers see no more than
# SLOW_SIZE MB.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
program=$(realpath -m "${PROGRAM:-target/release/pausedata}")
cd "$1"
rounds=${2:-3}
tokenizers=${TOKENIZERS:-gpt2 llama3}
sizes=${SIZES:-16 256}
sources=${SOURCES:-jsonl jsonl.zst jsonl.gz parquet}
peers=${PEERS:-pausedata pausedata-pauses gigatoken datatrove}
slow=${SLOW:-datatrove}
slow_size=${SLOW_SIZE:-16}

for size in $sizes; do
  folder=sources/$size
  [ -f "$folder/bytes" ] || {
    venv/bin/python "$here/peers/sources.py" corpus/c.jsonl "$size" "$folder" > bytes.tmp
    mv bytes.tmp "$folder/bytes"
  }
  bytes=$(cat "$folder/bytes")
  for source in $sources; do
    for tokenizer in $tokenizers; do
      for round in $(seq "$rounds"); do
        for peer in $peers; do
          if [[ " $slow " == *" $peer "* && $slow_size -lt $size ]]; then continue; fi
          line=$(venv/bin/python "$here/peers/pipeline.py" "$peer" "vocab/$tokenizer.json" \
            "$folder/text.$source" out.tmp "$program" 2> error.tmp | tail -n 1) || {
            echo "$peer failed on $source, $tokenizer, $size MB:" >&2
            tail -n 3 error.tmp >&2
            continue
          }
          echo "{\"peer\": \"$peer\", \"tokenizer\": \"$tokenizer\", \"source\": \"$source\", \"megabytes\": $size, \"round\": $round, \"bytes\": $bytes, ${line#\{}"
        done
      done
    done
  done
done
