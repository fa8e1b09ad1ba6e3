"""The picture of how the forward's time grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw"]

LABELS = {"batch": "images in a batch", "side": "side in pixels, 4 images", "threads": "threads, 16 images"}


def draw(growth: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the figures of the section `growth`, with a panel for each of batch, side and threads."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(8, 2.8), dpi=200, layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(growth)), growth.items(), strict=True):
        at = [row[name] for row in rows]
        for party, marker in zip(rows[0]["ms"], "os", strict=True):
            axes.plot(at, [row["ms"][party] for row in rows], marker=marker, markersize=4, label=party)
        axes.set_xlabel(LABELS[name])
        if name == "threads":
            axes.set_ylim(bottom=0)
        else:
            axes.loglog()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set_xticks(at)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("forward, ms")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)
