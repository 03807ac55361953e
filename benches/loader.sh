#!/bin/bash
# Token rows written, read in shuffled epochs, and found again after a stop: ours and the
# peers' in turn, round after round.
#
#   PROGRAM=target/release/pausedata benches/loader.sh BENCH [ROUNDS] > raw.jsonl
#   python3 benches/peers/loaders_table.py raw.jsonl
#
# BENCH is a folder that benches/peers/prepare.sh set up, with corpus/corpus.jsonl, JSON
# Lines of at least 450 MB of text; it needs 6 GB more. WORKS and PEERS narrow it down.
# Every run is a process of its own with warm files, as their program left them. Ours reads
# the rows of two datasets: `pausedata` of the peers' ids, `pausedata-pauses` with a tenth of
# pauses on disk, which `pausedata-online` draws as it reads the first. `pausedata-cold` finds
# the files of a third, equal to the first, on disk alone, and so does `pausedata-cold-blind`,
# which does not ask for rows ahead.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
program=$(realpath -m "${PROGRAM:-target/release/pausedata}")
bench=$(readlink -f "$1")
rounds=${2:-3}
works=${WORKS:-write epoch resume}
peers=${PEERS:-pausedata pausedata-pread pausedata-unchecked pausedata-pauses pausedata-online pausedata-cold pausedata-cold-blind numpy numpy-pieces litdata hf hf-map megatron mds grain}
folder=$bench/loader
mkdir -p "$folder"
cd "$folder"

# hf wants other versions of what the others want.
[ -d main ] || {
  python3 -m venv main
  main/bin/pip install --quiet 'litdata==0.2.76' 'megatron-core==0.16.1' 'grain==0.2.18' \
    'array-record==0.8.6' 'mosaicml-streaming==0.13.0' 'torch==2.15.0'
}
[ -d hf ] || {
  python3 -m venv hf
  hf/bin/pip install --quiet 'datasets==5.2.0' 'numpy==2.1.3'
}

prepared() { # NAME POLICY
  [ -f "$1/data/pretrain/manifest.json" ] || {
    cat > "$1.toml" << TOML
seed = 1
[tokenizer]
file = "$bench/vocab/gpt2.json"
[pretrain]
sources = [{ path = "$bench/corpus/corpus.jsonl", text = "text" }]
pause = { $2 }
pack = { seq_len = 2049 }
TOML
    "$program" prepare "$1.toml" --out "$1" >&2
  }
}
prepared plain 'policy = "none"'
prepared pauses 'policy = "random", fraction = 0.1'

# What stands in memory since an earlier day may not be what the program wrote.
rm -rf now again
for data in plain pauses; do
  "$program" convert "$data/data/pretrain" --to binary --out "now/$data" >&2
done
cp -r now/plain now/cold
python() { # PEER
  if [[ $1 == hf* ]]; then echo hf/bin/python; else echo main/bin/python; fi
}
[ -f tokens.u16 ] || main/bin/python "$here/peers/loaders.py" numpy tokens .

peer() { # PEER WORK
  "$(python "$1")" -W ignore "$here/peers/loaders.py" "$1" "$2" . 2> error.tmp | grep '^{' | tail -n 1
}

ours() { # PEER: the whole report; the table takes from it what it needs
  local data=plain epochs=2 options=()
  case $1 in
    pausedata-pread) options=(--read pread) ;;
    pausedata-unchecked) options=(--no-verify) ;;
    pausedata-pauses) data=pauses ;;
    pausedata-cold) data=cold epochs=1 options=(--cold) ;;
    pausedata-cold-blind) data=cold epochs=1 options=(--cold --no-read-ahead) ;;
    pausedata-online) options=(--pause '{ policy = "random", fraction = 0.1 }') ;;
  esac
  "$program" bench loader "now/$data" --batch-rows 16 --epochs "$epochs" --json "${options[@]}" "${@:2}"
}

say() { # PEER WORK ROUND JSON
  [ -n "$4" ] || {
    echo "$1 failed to $2:" >&2
    tail -n 3 error.tmp >&2
    return
  }
  echo "{\"peer\": \"$1\", \"work\": \"$2\", \"round\": $3, \"found\": $4}"
}

for round in $(seq "$rounds"); do
  # Every other round the other way round: nobody always comes after the same peer.
  order=$peers
  [ $((round % 2)) = 1 ] || order=$(tr ' ' '\n' <<< "$peers" | tac)
  for peer in $order; do
    case $peer in
      pausedata)
        rm -rf again
        [[ " $works " != *" write "* ]] || say "$peer" write "$round" "$(ours "$peer" --write again)"
        say "$peer" epoch "$round" "$(ours "$peer")"
        ;;
      pausedata-*) say "$peer" epoch "$round" "$(ours "$peer")" ;;
      *)
        for work in $works; do
          # What is there already is written again only to measure that.
          [[ $work != write || $peer != hf-map ]] || continue
          say "$peer" "$work" "$round" "$(peer "$peer" "$work" || true)"
        done
        ;;
    esac
  done
done
