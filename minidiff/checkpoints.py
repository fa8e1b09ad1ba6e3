"""Checkpoints: a folder of safetensors files and one JSON file, complete or absent.

    RUN/checkpoints/step-00002000/
        model.safetensors       parameters, under PyTorch's names
        ema.safetensors         their moving averages
        optimizer.safetensors   what the optimizer remembers
        checkpoint.json         what made them: network, schedule, data, and where training stands

The folder gets its name when everything in it is on the disk, so a killed process leaves
the checkpoint before. Nothing is pickled: reading a checkpoint runs no code from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidiff import models
from minidiff.backend import Array, Backend
from minidiff.diffusion import GaussianDiffusion
from minidiff.files import atomic_folder, remove_leftovers
from minidiff.models.pretrained import load_weights, make_unset
from minidiff.weights import CheckpointError, Weights, read_json, shown, write_file

__all__ = [
    "DESCRIPTION",
    "CheckpointError",
    "checkpoints_in",
    "find_checkpoint",
    "load_model",
    "read_checkpoint",
    "read_diffusion",
    "read_tensors",
    "save_checkpoint",
]

FORMAT = "minidiff checkpoint 1"
DESCRIPTION = "checkpoint.json"


def save_checkpoint(
    folder: str | Path, tensors: Mapping[str, Mapping[str, Array]], description: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder, all of it or nothing.

    Parameters
    ----------
    folder : str or Path
        Replaced if it exists.
    tensors : mapping of str to mapping of str to array
        The name of each safetensors file, and the arrays in it.
    description : mapping
        What `checkpoint.json` holds: JSON values only.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **description}, indent=2) + "\n"
    with atomic_folder(folder) as unfinished:
        for name, arrays in tensors.items():
            write_file(unfinished / f"{name}.safetensors", arrays)
        (unfinished / DESCRIPTION).write_text(text, encoding="utf-8")


def checkpoints_in(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first. Another process may be writing there."""
    return sorted(p.parent for p in Path(run).glob(f"checkpoints/step-*/{DESCRIPTION}"))


def keep_newest(run: str | Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a run, and what killed processes left; for who writes there."""
    for folder in (Path(run), Path(run) / "checkpoints"):
        remove_leftovers(folder)
    for old in checkpoints_in(run)[:-count]:
        shutil.rmtree(old)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder `path`, or the newest one of the run `path`.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    path = Path(path)
    if (path / DESCRIPTION).is_file():
        return path
    found = checkpoints_in(path)
    if not found:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected {DESCRIPTION} or checkpoints/step-*/{DESCRIPTION} "
            "(train one first, for instance with examples/train_digits.py)"
        )
    return found[-1]


def read_checkpoint(folder: str | Path) -> dict[str, Any]:
    """What `checkpoint.json` says.

    Raises
    ------
    CheckpointError
        If the file is missing, is not JSON, or is not a checkpoint's.
    """
    path = Path(folder) / DESCRIPTION
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, found {shown(content.get('format'))}")
    return content


def read_tensors(folder: str | Path, name: str) -> Weights:
    """The arrays of one safetensors file of a checkpoint, as read-only views of the file's memory.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    return Weights(Path(folder) / f"{name}.safetensors")


def describe_model(model: Any) -> dict[str, Any]:
    """What `load_model` needs to make `model` again, without its parameters."""
    return {"type": type(model).__name__, **model.config}


def read_diffusion(description: Mapping[str, Any]) -> GaussianDiffusion:
    """The diffusion process that a checkpoint's description names under "diffusion".

    Raises
    ------
    CheckpointError
        If it names none, or something else.
    """
    try:
        return GaussianDiffusion.from_description(description["diffusion"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint describes no diffusion process: {error!r}") from None


def load_model(
    path: str | Path, *, device: str | Backend = "cpu", weights: str = "ema"
) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint.

    Parameters
    ----------
    path : str or Path
        A checkpoint folder, or a run, whose newest checkpoint is taken.
    device : str or Backend
        Where its parameters go.
    weights : "ema" or "model"
        The moving averages, which make better samples, or the parameters as trained.

    Returns
    -------
    model : Module
    description : dict
        All that `checkpoint.json` says.

    Raises
    ------
    CheckpointError
        If something is missing, damaged or does not fit.
    """
    folder = find_checkpoint(path)
    description = read_checkpoint(folder)
    arguments = description.get("model")
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{folder / DESCRIPTION}: describes no model")
    kind, arguments = arguments.get("type"), {k: v for k, v in arguments.items() if k != "type"}
    if kind not in models.__all__:
        known = ", ".join(models.__all__)
        raise CheckpointError(
            f"{folder / DESCRIPTION}: unknown model {shown(kind)}; this version has {known}"
        )
    tensors = read_tensors(folder, weights)
    model = make_unset(getattr(models, kind), arguments, tensors, device, where=folder / DESCRIPTION)
    load_weights(model, tensors, where=tensors.paths[0])
    return model, description
