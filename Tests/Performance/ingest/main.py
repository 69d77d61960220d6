"""`bench ingest`: the bars of the ingest service, each on a private PostgreSQL with a real foretaste-ingest process.

    rate     bulk ingest of 1 KB pairs beside COPY of the same rows (rate.py)
    storm    a thousand clients at once, most of them badly behaved (storm.py)
    kill     SIGKILL of the service, and crashes of PostgreSQL, at random points (kill.py)
"""
import argparse
import json
from pathlib import Path

import kill
import rate
import storm
from service import ROOT, Service

PARTS = {"rate": rate, "storm": storm, "kill": kill}


def arguments():
    parser = argparse.ArgumentParser(prog="bench ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help="rate, storm or kill; all of them if none is named")
    parser.add_argument("--pairs", type=int, default=20_000, help="rate: how many pairs a round posts")
    parser.add_argument("--body", type=int, default=5_000, help="rate: how many lines a request has")
    parser.add_argument("--clients", type=int, default=1, help="rate: how many post at once")
    parser.add_argument("--rounds", type=int, default=3, help="rate: how many rounds are timed")
    parser.add_argument("--storm", type=int, default=1000, metavar="CLIENTS", help="storm: how many clients at once")
    parser.add_argument("--seconds", type=float, default=20, help="storm: how long, once warm")
    parser.add_argument("--kills", type=int, default=20, help="kill: how many times")
    parser.add_argument("--seed", type=int, default=1, help="storm and kill: of all that is chance")
    parser.add_argument("--binary", type=Path, default=ROOT / ".build/release/foretaste-ingest")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    for part in options.part:
        if part not in PARTS:
            parser.error(f"there is no part {part}; known are {', '.join(PARTS)}")
    return options


def main():
    options = arguments()
    numbers, bars, parts = {}, [], []
    for name in options.part or PARTS:
        with Service(options.binary) as service:
            numbers[name], found = PARTS[name].run(options, service)
            bars += found
            parts += [name] * len(found)
    print("\n| bar | measured | wanted | |\n| --- | --- | --- | --- |")
    for what, measured, wanted, met in bars:
        print(f"| {what} | {measured} | {wanted} | {'met' if met else 'MISSED'} |")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1))
    # A rate is the machine's; a lost row, or memory that grows, is a fault.
    if not all(met for part, (*_, met) in zip(parts, bars) if part != "rate"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
