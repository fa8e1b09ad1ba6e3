"""Writing a checkpoint as a folder of diffusers, one tensor in memory at a time."""

from __future__ import annotations

import codecs
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from minidiff import models
from minidiff.backend import Array
from minidiff.checkpoints import find_checkpoint, load_model
from minidiff.files import atomic_folder
from minidiff.models.pretrained import CONFIG, PretrainedModule, make_unset, split_config
from minidiff.weights import (
    PICKLES,
    STEM,
    CheckpointError,
    Weights,
    open_weights,
    read_json,
    refuse_pickle,
    variants_in,
    write_weights,
)

__all__ = [
    "Rewrite",
    "known_model",
    "rewrite",
    "rewrite_checkpoint",
    "rewrite_model",
    "rewrite_pipeline",
    "rewrite_weights",
]


# rewrite(path, output, dtype, variant): CheckpointError if it cannot be done
Rewrite: TypeAlias = Callable[[Path, Path, str | None, str | None], None]


def known_model(config: Mapping[str, Any]) -> type[PretrainedModule] | None:
    """The class that a configuration names, if minidiff has it."""
    name = config.get("_class_name")
    found = getattr(models, name) if name in models.__all__ else None
    return found if isinstance(found, type) and issubclass(found, PretrainedModule) else None


def rewrite_checkpoint(path: Path, output: Path, dtype: str | None, variant: str | None) -> None:
    """The averaged weights of a run's newest checkpoint, as a folder for `from_pretrained`."""
    _refuse_variant(path, variant)
    folder = find_checkpoint(path)
    model, _ = load_model(folder)
    if not isinstance(model, PretrainedModule):
        raise CheckpointError(f"{folder}: a {type(model).__name__}, which has no from_pretrained")
    model.save_pretrained(output, dtype=dtype)


def rewrite_model(path: Path, output: Path, dtype: str | None, variant: str | None) -> None:
    """The same model; parameters of ours get the names of today."""
    config = read_json(path / CONFIG)
    weights = open_weights(path, variant=variant)
    state: Mapping[str, Array] = dict(weights)
    kind = known_model(config)
    if kind is not None:
        model = make_unset(kind, split_config(kind, config), weights, "cpu", where=path / CONFIG)
        state = kind.renamed(state)
        problems = model.misfits(state)
        if problems:
            raise CheckpointError(
                f"{path}: the weights do not fit, {problems[0]}; without --output all is listed"
            )
    text = (path / CONFIG).read_text(encoding="utf-8-sig")
    write_weights(output, weights.one_by_one(state), dtype=dtype, texts={CONFIG: text})


def rewrite_pipeline(path: Path, output: Path, dtype: str | None, variant: str | None) -> None:
    """The same pipeline; weights of diffusers are written anew, and all else is copied but pickles."""
    if _is_model(path):  # in older folders parts lie beside the index
        rewrite_model(path, output, dtype, variant)
    for part in sorted(path.iterdir()):
        if _is_model(part):
            rewrite_model(part, output / part.name, dtype, variant)
        elif part.is_dir():
            _refuse_nothing_but_pickles(part)
            pickles = shutil.ignore_patterns(*(f"*{s}" for s in PICKLES))
            shutil.copytree(part, output / part.name, ignore=pickles, copy_function=_copy)
        elif part.suffix not in PICKLES and not part.name.startswith(STEM):
            _copy(part, output / part.name)


def _copy(source: str | Path, target: str | Path) -> None:
    """Copy a file, JSON without the mark that editors on Windows begin it with: diffusers does not read that."""
    if Path(source).suffix == ".json":
        Path(target).write_bytes(Path(source).read_bytes().removeprefix(codecs.BOM_UTF8))
    else:
        shutil.copyfile(source, target)


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and bool(variants_in(folder))


def _refuse_nothing_but_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.iterdir()):
            refuse_pickle(file)


def rewrite_weights(path: Path, output: Path, dtype: str | None, variant: str | None) -> None:
    """The same tensors, under the file name of diffusers."""
    _refuse_variant(path, variant)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    weights = Weights(*files)
    write_weights(output, weights.one_by_one(weights), dtype=dtype)


def _refuse_variant(path: Path, variant: str | None) -> None:
    if variant is not None:
        raise CheckpointError(
            f"{path}: only models and pipelines have variants; leave --variant out, or name one file"
        )


def rewrite(function: Rewrite, path: Path, output: Path, dtype: str | None, variant: str | None) -> None:
    """Call one of the functions above, and keep all of what it wrote or nothing.

    Raises
    ------
    CheckpointError
        If `output` exists already, or would be inside `path`.
    """
    if path.resolve() in output.resolve().parents:
        raise CheckpointError(f"{output}: is inside {path}; give a folder elsewhere")
    if output.exists():
        raise CheckpointError(f"{output}: exists already; give a new folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(output) as unfinished:
        function(path, unfinished, dtype, variant)
