"""`python -m minidiff doctor`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from minidiff.doctor.report import examine

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what works here and what does not; return 0 if the device that was asked for works, else 1."""
    parser = argparse.ArgumentParser(
        prog="minidiff doctor", description="What works on this machine, what does not, and what mends it."
    )
    parser.add_argument("--device", default="cpu", help="the device that must work (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args(arguments)
    report = examine(args.device)
    works = report.works(args.device)
    if args.json:
        print(json.dumps({"device": args.device, "works": works, **report.values()}, indent=2))
    else:
        print("\n".join(report.lines()))
    return 0 if works else 1
