"""All that was found, as text for a screen and as values for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from minidiff.backend import BackendUnavailable, available_backends, diagnosis, get_backend
from minidiff.doctor import kernels, machine
from minidiff.doctor.findings import Finding, ask, fault

__all__ = ["Device", "Report", "examine"]

WIDTH = 110
MARKS = {"ok": " ", "caution": "!", "fault": "x"}


@dataclass(frozen=True)
class Device:
    """What was found about a device.

    Attributes
    ----------
    name : str
        "cuda".
    works : bool
        Whether its backend loads and computes right.
    findings : list of Finding
    """

    name: str
    works: bool
    findings: list[Finding]


@dataclass(frozen=True)
class Report:
    """What was found about the machine, and about each device that an installed package offers."""

    machine: list[Finding]
    devices: list[Device]

    def works(self, device: str) -> bool:
        """Whether `device` works."""
        return any(d.works for d in self.devices if d.name == device)

    def values(self) -> dict[str, Any]:
        """For JSON: {"machine": [finding, ...], "devices": {"cpu": {"works": true, "findings": [...]}, ...}}."""
        return {
            "machine": [asdict(f) for f in self.machine],
            "devices": {
                d.name: {"works": d.works, "findings": [asdict(f) for f in d.findings]} for d in self.devices
            },
        }

    def lines(self) -> Iterator[str]:
        """For a screen."""
        yield "machine"
        yield from _lines(self.machine)
        for device in self.devices:
            yield f"{device.name}: {'works' if device.works else 'does not work'}"
            yield from _lines(device.findings)


def examine(device: str = "cpu") -> Report:
    """Ask everything about this machine, about all devices that are offered, and about `device`."""
    names = dict.fromkeys([*available_backends(), device])
    return Report(ask(machine.QUESTIONS), [_examine(name) for name in names])


def _examine(name: str) -> Device:
    findings = ask({"backend": lambda: _load(name)})
    works = findings[0].state != "fault"
    try:
        findings += ask(diagnosis(name))
    except Exception as error:
        findings.append(fault("diagnosis", error))
    if works:
        tests = ask(kernels.questions(get_backend(name)))
        works = all(test.state != "fault" for test in tests)
        findings += tests
    return Device(name, works, findings)


def _load(name: str) -> str:
    try:
        backend = get_backend(name)
    except ValueError as error:
        raise BackendUnavailable(
            str(error), "ask for one that is offered, or install what offers it"
        ) from error
    return f"{backend.xp.__name__} with {len(backend.kernels)} kernels"


def _lines(findings: list[Finding]) -> Iterator[str]:
    """A line or a few for each finding; a cause that several have is told once."""
    told = set()
    for f in findings:
        if f.state == "fault" and f.text in told:
            continue
        told.add(f.text)
        yield _wrap(f"{MARKS[f.state]:>3} {f.name:16}", f.text)
        if f.fix:
            yield _wrap(" " * 20 + "-> ", f.fix)


def _wrap(start: str, text: str) -> str:
    """`text` after `start`, its further lines below it."""
    indent = " " * len(start)
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)
