"""Medians of what benches/loader.sh measured, as a Markdown table.

usage: loaders_table.py RAW.jsonl

A ratio is the median over rounds of ours over the peer in the same round, so that what
slows the machine slows both; seconds are those that passed. Ours in its first epoch finds
every block unchecked, as the peers find every page unmapped: that one is compared.
"""

import json
import statistics
import sys
from collections import defaultdict

OURS = "pausedata"


def ours(found):
    """What a report of `pausedata bench loader --json` says of each work."""
    first, *later = found["epochs"]
    says = {
        "epoch": first["tokens_per_cpu_second"] / 1e6,
        "later": (later or [first])[-1]["tokens_per_cpu_second"] / 1e6,
        "resume": statistics.median(found["first_batch_ms"]),
        "open": 1e3 * found["open"]["wall_seconds"],
        "private": found["private_bytes"] / 2**20,
        "seconds": first["wall_seconds"],
    }
    if "written" in found:
        says["write"] = found["written"]["tokens_per_cpu_second"] / 1e6
    return says


def theirs(work, found):
    if work == "resume":
        return {"resume": 1e3 * found["wall_seconds"]}
    speed = found["tokens"] / found["cpu_seconds"] / 1e6
    says = {work: speed, "private": found["private_bytes"] / 2**20}
    return says | ({"seconds": found["wall_seconds"]} if work == "epoch" else {})


def main():
    values = defaultdict(lambda: defaultdict(dict))
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            run = json.loads(line)
            peer, work, found = run["peer"], run["work"], run["found"]
            says = ours(found) if peer.startswith(OURS) else theirs(work, found)
            if peer.startswith(OURS) and work == "write":
                says = {"write": says["write"]}
            for what, value in says.items():
                values[peer][what][run["round"]] = value
    head = ["peer", "write", "ratio", "epoch", "ratio", "later epochs", "first batch ms", "private MiB", "epoch, seconds"]
    print(f"| {' | '.join(head)} |")
    print(f"| --- |{' --: |' * (len(head) - 1)}")
    for peer, of_peer in values.items():
        row = [peer]
        for what in ("write", "epoch"):
            row += [spread(of_peer[what]), ratio(values[OURS][what], of_peer[what], peer)]
        row += [spread(of_peer[what]) for what in ("later", "resume", "private", "seconds")]
        print(f"| {' | '.join(row)} |")


def spread(rounds):
    if not rounds:
        return ""
    low, high = min(rounds.values()), max(rounds.values())
    return f"{number(statistics.median(rounds.values()))} ({number(low)} to {number(high)})"


def ratio(mine, its, peer):
    shared = mine.keys() & its.keys()
    if peer == OURS or not shared:
        return ""
    return f"{statistics.median(mine[r] / its[r] for r in shared):.2f}x"


def number(value):
    return f"{value:.0f}" if 100 <= value else f"{value:.3g}"


if __name__ == "__main__":
    main()
