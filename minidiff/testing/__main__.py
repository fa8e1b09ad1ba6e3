"""Print the conformance table: `python -m minidiff.testing --devices cpu,strict,torch`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from minidiff.backend import BackendUnavailable
from minidiff.testing import CASES, Errors, check_backend, load_backend

NAMES = {"cpu": "NumPy", "strict": "array-api-strict", "torch": "PyTorch arrays", "cuda": "CuPy"}


def table(results: dict[str, dict[str, Errors]]) -> Iterable[str]:
    """Lines of a Markdown table: a row for each function, a column for each device."""
    yield "| function | cases | " + " | ".join(NAMES.get(device, device) for device in results) + " |"
    yield "| --- | ---: |" + " --- |" * len(results)
    counts: dict[str, int] = {}
    for case in CASES:
        counts[case.op] = counts.get(case.op, 0) + 1
    for name, count in counts.items():
        cells = " | ".join(_cell(errors[name]) for errors in results.values())
        yield f"| `{name}` | {count} | {cells} |"


def _cell(errors: Errors) -> str:
    figures = " / ".join(f"{x:.0e}" if x else "0" for x in (errors.forward, errors.gradient))
    return figures + (" *" if errors.served else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every case on each device, print what was measured, and return 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m minidiff.testing", description=__doc__)
    parser.add_argument("--devices", default="cpu,strict,torch", help="separated by commas (%(default)s)")
    devices = parser.parse_args(arguments).devices.split(",")
    results: dict[str, dict[str, Errors]] = {}
    failures: list[str] = []
    for device in devices:
        try:
            backend = load_backend(device)
        except ValueError as unknown:
            parser.error(str(unknown))
        except BackendUnavailable as reason:
            print(f"{NAMES.get(device, device)} is left out: {reason}\n")
            continue
        try:
            results[device] = check_backend(backend)
        except AssertionError as failure:
            failures.append(f"{device}: {failure}")
    print("\n".join([*table(results), *failures]))
    print(
        "\nLargest error of float32 results against the generic rule in float64, and of float64 gradients "
        "against\ncentral differences, both relative to max(1, |expected|); tolerances 1e-5 and 1e-6. "
        "An asterisk marks functions\nfor which the backend has a kernel of its own."
    )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
