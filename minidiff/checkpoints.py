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

import numpy as np

from minidiff import models
from minidiff.backend import Array, Backend, backend_of
from minidiff.diffusion import GaussianDiffusion
from minidiff.files import atomic_folder, remove_leftovers
from minidiff.random import Generator

__all__ = [
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


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the message names the file."""


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
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **description}, indent=2) + "\n"
    with atomic_folder(folder) as unfinished:
        for name, arrays in tensors.items():
            host = {key: np.asarray(backend_of(a).to_numpy(a), order="C") for key, a in arrays.items()}
            save_file(host, unfinished / f"{name}.safetensors")
        (unfinished / DESCRIPTION).write_text(text, encoding="utf-8")


def checkpoints_in(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; what a killed process left unfinished is deleted."""
    parent = Path(run) / "checkpoints"
    if not parent.is_dir():
        return []
    remove_leftovers(parent)
    return sorted(p for p in parent.glob("step-*") if (p / DESCRIPTION).is_file())


def keep_newest(run: str | Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a run."""
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, found {found!r}")
    return content


def read_tensors(folder: str | Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of one safetensors file of a checkpoint.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder) / f"{name}.safetensors"
    try:
        arrays: dict[str, np.ndarray[Any, Any]] = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    return arrays


def describe_model(model: Any) -> dict[str, Any]:
    """What `make_model` needs to make `model` again, without its parameters."""
    return {"type": type(model).__name__, **model.config}


def make_model(description: Mapping[str, Any], device: str | Backend = "cpu") -> Any:
    """A network from what `describe_model` said.

    Raises
    ------
    CheckpointError
        If no network has that name, or it does not take these arguments.
    """
    arguments = {key: value for key, value in description.items() if key != "type"}
    kind = description.get("type")
    if kind not in models.__all__:
        raise CheckpointError(f"unknown model {kind!r}; this version has {', '.join(models.__all__)}")
    try:
        return getattr(models, str(kind))(**arguments, rng=Generator(0, device))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"model {kind} cannot be made from {arguments}: {error}") from None


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
    if not isinstance(description.get("model"), dict):
        raise CheckpointError(f"{folder / DESCRIPTION}: describes no model")
    model = make_model(description["model"], device)
    try:
        model.load_state_dict(read_tensors(folder, weights))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder / weights}.safetensors: {error}") from None
    return model, description
