#!/bin/bash
# Encoding on one thread, ours and the peers' in turn, round after round.
#
#   PROGRAM=target/release/pausedata benches/tokenize.sh BENCH [ROUNDS] > raw.jsonl
#   python3 benches/peers/table.py raw.jsonl
#
# BENCH is a folder that benches/peers/prepare.sh set up. Every run is a process of its
# own that encodes the same documents twice: cold, then once more. TOKENIZERS, SIZES (in
# MB of text) and PEERS narrow it down; SLOW peers see no more than SLOW_SIZE MB.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
program=$(realpath -m "${PROGRAM:-target/release/pausedata}")
cd "$1"
rounds=${2:-3}
tokenizers=${TOKENIZERS:-gpt2 gpt35turbo llama3 qwen3 gpt4o}
sizes=${SIZES:-16 256}
peers=${PEERS:-pausedata gigatoken tokenizers-rc tiktoken tokenizers}
slow=${SLOW:-tiktoken tokenizers}
slow_size=${SLOW_SIZE:-16}

encode() { # PEER TOKENIZER MEGABYTES
  local vocab=vocab/$2.json corpus=corpus/c.jsonl
  case $1 in
    pausedata) "$program" --threads 1 bench tokenize "$vocab" "$corpus" --megabytes "$3" --passes 2 --json ;;
    tokenizers-rc) bin/tokenizers-rc "$vocab" "$corpus" "$3" 2 ;;
    *) venv/bin/python "$here/peers/encode.py" "$1" "$vocab" "$corpus" "$3" 2 ;;
  esac
}

for size in $sizes; do
  for tokenizer in $tokenizers; do
    for round in $(seq "$rounds"); do
      for peer in $peers; do
        if [[ " $slow " == *" $peer "* && $slow_size -lt $size ]]; then continue; fi
        line=$(encode "$peer" "$tokenizer" "$size" | tail -n 1) || {
          echo "$peer failed on $tokenizer, $size MB" >&2
          continue
        }
        echo "{\"peer\": \"$peer\", \"tokenizer\": \"$tokenizer\", \"megabytes\": $size, \"round\": $round, ${line#\{}"
      done
    done
  done
done
