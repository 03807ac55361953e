"""Medians, ranges and ratios of raw measurements, as Markdown tables.

usage: table.py RAW.jsonl [OURS]

A ratio is the median over rounds of OURS (pausedata) over the peer in the same round, so
that what slows the machine slows both. `ids` says whether the digests of all runs of a
peer are those of the reference: `tokenizers` where it ran, else ours.
"""

import json
import statistics
import sys
from collections import defaultdict


def main():
    ours = sys.argv[2] if 2 < len(sys.argv) else "pausedata"
    groups = defaultdict(list)
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            run = json.loads(line)
            key = (run.get("source", ""), run["megabytes"], run["tokenizer"])
            groups[key].append(run)
    for (source, megabytes, tokenizer), runs in groups.items():
        title = f"{tokenizer}, {megabytes} MB"
        print(f"\n### {title}{f', .{source}' if source else ''}\n")
        table(runs, ours)


def table(runs, ours):
    passes = min(len(run["passes"]) for run in runs)
    names = ["cold", "second pass"][:passes] if 1 < passes else ["whole"]
    head = ["peer", "rounds"]
    for name in names:
        head += [f"{name} MB/s (range)", f"{ours} is"]
    memory = any("memory" in run for run in runs)
    head += ["peak memory"] * memory + ["ids"]
    rows = [head, ["---"] + ["--:"] * (len(head) - 2) + ["---"]]
    reference = digests(runs, "tokenizers") or digests(runs, ours)
    for peer in dict.fromkeys(run["peer"] for run in runs):
        of_peer = [run for run in runs if run["peer"] == peer]
        row = [peer, str(len(of_peer))]
        for index in range(passes):
            row += [speeds(of_peer, index), ratio(runs, ours, peer, index)]
        if memory:
            row.append(f"{max(run['memory'] for run in of_peer) / 1e6:.0f} MB")
        row.append(verdict(digests(runs, peer), reference))
        rows.append(row)
    for row in rows:
        print(f"| {' | '.join(row)} |")


def digests(runs, peer):
    return {run["digest"] for run in runs if run["peer"] == peer}


def verdict(found, reference):
    if not reference:
        return "not compared"
    return "equal" if found == reference else "**differ**"


def speed(run, index):
    return run["bytes"] / run["passes"][index]["cpu_seconds"] / 1e6


def speeds(runs, index):
    found = [speed(run, index) for run in runs]
    median = statistics.median(found)
    digits = 2 if median < 10 else 0
    low, high = min(found), max(found)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratio(runs, ours, peer, index):
    by_round = defaultdict(dict)
    for run in runs:
        by_round[run["round"]][run["peer"]] = speed(run, index)
    pairs = [found for found in by_round.values() if ours in found and peer in found]
    if peer == ours or not pairs:
        return ""
    return f"{statistics.median(found[ours] / found[peer] for found in pairs):.2f}x"


main()
