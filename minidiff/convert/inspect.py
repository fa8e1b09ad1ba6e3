"""What a folder or a file is, from what lies in it; of weights only the headers are read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidiff.checkpoints import DESCRIPTION, checkpoints_in, find_checkpoint, read_checkpoint, read_tensors
from minidiff.convert.rewrite import (
    Rewrite,
    known_model,
    rewrite_checkpoint,
    rewrite_model,
    rewrite_pipeline,
    rewrite_weights,
)
from minidiff.diffusion import Sampler
from minidiff.models.pretrained import CONFIG, PretrainedModule, make_unset, split_config
from minidiff.weights import (
    PICKLES,
    STEM,
    CheckpointError,
    Weights,
    open_weights,
    read_json,
    refuse_pickle,
    shown,
    variants_in,
)

__all__ = ["Kind", "kind_of"]

MODEL_INDEX, SCHEDULER_CONFIG = "model_index.json", "scheduler_config.json"
STEMS = (STEM, "model")  # of diffusers and of transformers


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes
    ----------
    name : str
        "a diffusers pipeline".
    holds : callable
        Whether a path is one.
    describe : callable
        What there is to say of it, a line each.
    rewrite : callable, optional
        `rewrite(path, output, dtype, variant)` writes it into a new folder; see `minidiff.convert.rewrite`.
    """

    name: str
    holds: Callable[[Path], bool]
    describe: Callable[[Path], Iterator[str]]
    rewrite: Rewrite | None = None


def kind_of(path: str | Path) -> Kind:
    """The kind of checkpoint at `path`.

    Raises
    ------
    CheckpointError
        If it is none, or holds nothing but pickled weights.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    for kind in KINDS:
        if kind.holds(path):
            return kind
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in inside:
        if file.suffix in PICKLES:
            refuse_pickle(file)
    names = ", ".join(file.name for file in inside[:9]) or "nothing"
    raise CheckpointError(f"{path}: no checkpoint that minidiff knows; found {names}{_better(path)}")


def _better(path: Path) -> str:
    """What was perhaps meant: a folder around a file, or inside the cache of the Hugging Face hub."""
    if path.name in (CONFIG, SCHEDULER_CONFIG, MODEL_INDEX):
        return f"; give its folder, {path.parent}"
    snapshots = sorted(path.glob("snapshots/*/")) or (
        sorted(path.iterdir()) if path.name == "snapshots" else []
    )
    return f"; give a snapshot, such as {snapshots[-1]}" if snapshots else ""


def _describe_checkpoint(path: Path) -> Iterator[str]:
    folder = find_checkpoint(path)
    description = read_checkpoint(folder)
    if folder != path:
        yield f"{len(checkpoints_in(path))} checkpoints, of which the newest is {folder.name}"
    model = description.get("model")
    arguments = dict(model) if isinstance(model, dict) else {}
    yield f"model: {shown(arguments.pop('type', None))} of {_listed(arguments)}"
    for key in ("dataset", "image_shape", "diffusion"):
        if key in description:
            yield f"{key}: {shown(description[key])}"
    training = description.get("training")
    if isinstance(training, dict):
        yield f"trained for {shown(training.get('step'))} steps"
    for name in ("model", "ema"):
        yield f"{name}.safetensors: {_counted(read_tensors(folder, name))}"


def _describe_pipeline(path: Path) -> Iterator[str]:
    index = read_json(path / MODEL_INDEX)
    yield f"class: {shown(index.get('_class_name'))}"
    for name, value in index.items():
        none = not isinstance(value, list) or len(value) != 2 or value == [None, None]
        if none or name.startswith("_"):
            continue
        part = path / name if (path / name).is_dir() else path  # in older folders parts lie beside the index
        yield f"{name}: {value[1]}"
        scheduler = "Scheduler" in str(value[1])
        file = SCHEDULER_CONFIG if scheduler else CONFIG
        if not (part / file).is_file():
            yield f"  no {file}"
            continue
        config, named = read_json(part / file), {"_class_name": value[1]}
        lines = (
            _scheduler_lines({**config, **named}) if scheduler else _model_lines(part, {**named, **config})
        )
        yield from (f"  {line}" for line in lines)


def _describe_model(path: Path) -> Iterator[str]:
    return _model_lines(path, read_json(path / CONFIG))


def _model_lines(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    name = config.get("_class_name", config.get("architectures"))
    kind = known_model(config)
    yield f"class: {shown(name)}{'' if kind else ', which minidiff does not have'}"
    size = ("in_channels", "out_channels", "sample_size")
    if any(key in config for key in size):
        yield "images: " + _listed({key: config[key] for key in size if key in config})
    found = [(stem, variant) for stem in STEMS for variant in variants_in(path, stem=stem)]
    for stem, variant in found:
        weights = open_weights(path, variant=variant, stem=stem)
        yield f"weights{f', variant {variant}' if variant else ''}: {_counted(weights)}"
        if kind:
            yield from _fit(kind, config, weights)
    for pickle in sorted(p for p in path.iterdir() if p.suffix in PICKLES):
        yield f"{pickle.name}: pickled weights, which minidiff does not read"
        if not found:
            refuse_pickle(pickle)
    if not found:
        yield "weights: none"


def _fit(kind: type[PretrainedModule], config: Mapping[str, Any], weights: Weights) -> Iterator[str]:
    """Whether weights and configuration make a model."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = make_unset(kind, split_config(kind, config), weights, "cpu", where=CONFIG)
        except CheckpointError as error:
            yield f"  {error}"
            return
    yield from (f"  {warning.message}" for warning in caught)
    problems = model.misfits(kind.renamed(dict(weights)))
    yield f"  weights and configuration fit {kind.__name__}" if not problems else "  weights do not fit:"
    yield from (f"    {problem}" for problem in problems[:20])
    if len(problems) > 20:
        yield f"    and {len(problems) - 20} more"


def _describe_scheduler(path: Path) -> Iterator[str]:
    return _scheduler_lines(read_json(path / SCHEDULER_CONFIG))


def _scheduler_lines(config: Mapping[str, Any]) -> Iterator[str]:
    """What the file says, and why no sampler can be made of it, if none can."""
    yield f"class: {shown(config.get('_class_name'))}"
    yield _listed({key: value for key, value in config.items() if not key.startswith("_")})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            Sampler.from_config(config)
        except (TypeError, ValueError) as error:
            yield f"  {error}"
    yield from (f"  {warning.message}" for warning in caught)


def _describe_weights(path: Path) -> Iterator[str]:
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        weights = Weights(file)
        yield f"{file.name}: {_counted(weights)}"
        yield from (f"  {key}: {shown(value)}" for key, value in weights.metadata.items())
        for name in [*weights][:3]:
            yield f"  {name} {weights.entries[name].shape}"
        if len(weights) > 3:
            yield f"  and {len(weights) - 3} more"


def _counted(weights: Weights) -> str:
    dtypes = Counter[str]()
    for entry in weights.entries.values():
        dtypes[entry.dtype] += entry.size
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in dtypes.most_common())
    files = f" in {len(weights.paths)} files" if len(weights.paths) > 1 else ""
    return f"{kinds or 'no'} numbers in {len(weights)} tensors, {weights.nbytes / 1e6:,.1f} MB{files}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in values.items())


def _is_checkpoint(path: Path) -> bool:
    return (path / DESCRIPTION).is_file() or bool(checkpoints_in(path))


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path.is_dir() and any(path.glob("*.safetensors")))


KINDS = (
    Kind("a minidiff checkpoint", _is_checkpoint, _describe_checkpoint, rewrite_checkpoint),
    Kind("a pipeline", lambda path: (path / MODEL_INDEX).is_file(), _describe_pipeline, rewrite_pipeline),
    Kind("a model", lambda path: (path / CONFIG).is_file(), _describe_model, rewrite_model),
    Kind("a scheduler", lambda path: (path / SCHEDULER_CONFIG).is_file(), _describe_scheduler),
    Kind("weights without a configuration", _is_weights, _describe_weights, rewrite_weights),
)
