"""Questions and what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from minidiff.backend import BackendUnavailable

__all__ = ["Finding", "Questions", "ask", "fault"]

Questions: TypeAlias = Mapping[str, Callable[[], str]]


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes
    ----------
    name : str
    state : str
        "ok"; "caution", it works and could do better; "fault", it does not work.
    text : str
        What is there, or the cause of the fault.
    fix : str
        What mends it; empty where all is well.
    """

    name: str
    state: Literal["ok", "caution", "fault"]
    text: str
    fix: str = ""


def ask(questions: Questions) -> list[Finding]:
    """What was found, in the order of the questions."""
    return [_ask(name, question) for name, question in questions.items()]


def fault(name: str, error: Exception) -> Finding:
    """What `error` says."""
    if isinstance(error, BackendUnavailable):
        return Finding(name, "fault", error.cause, error.fix)
    return Finding(name, "fault", f"{type(error).__name__}: {error}")


def _ask(name: str, question: Callable[[], str]) -> Finding:
    with warnings.catch_warnings(record=True) as cautions:
        warnings.simplefilter("always")
        try:
            found = Finding(name, "ok", question())
        except Exception as error:  # the other questions go on
            found = fault(name, error)
    if not cautions:
        return found
    advice = [found.fix, *(" ".join(str(caution.message).split()) for caution in cautions)]
    state = found.state if found.state == "fault" else "caution"
    return replace(found, state=state, fix="; ".join(filter(None, advice)))
