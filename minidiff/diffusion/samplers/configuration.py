"""Samplers as `scheduler_config.json`: the file of diffusers, read and written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from minidiff.files import atomic_path
from minidiff.weights import read_json

__all__ = ["NETWORK_OPTIONS", "UNCHOSEN", "read_config", "read_options", "write_options"]

FILE = "scheduler_config.json"
UNCHOSEN = "_use_default_values"  # in configurations, here and in diffusers: options that nobody chose
NETWORK_OPTIONS = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type"}
OLD: dict[str, Callable[[Any], dict[str, Any]]] = {  # what options of old files say today
    "predict_epsilon": lambda value: {} if value else {"prediction_type": "sample"},
    "set_alpha_to_zero": lambda value: {"set_alpha_to_one": value},
    "tensor_format": lambda value: {},
}
OF_THE_NETWORK = {  # options that say what the network expects, as samplers without them do not
    "rescale_betas_zero_snr": True,
    "use_flow_sigmas": True,
    "invert_sigmas": True,
    "timestep_type": "continuous",
}
DIFFUSERS = {"cosine": "squaredcos_cap_v2", "quadratic": "scaled_linear"}  # its names for schedules of ours


def read_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says, or its file, or a folder with that file."""
    return dict(config) if isinstance(config, Mapping) else read_json(_find(Path(config)))


def read_options(
    cls: type[Any], config: str | Path | Mapping[str, Any]
) -> tuple[type[Any], dict[str, Any], dict[str, Any]]:
    """The class that a configuration names, if `cls` does not decide it; its options; and those of other samplers."""
    content = read_config(config)
    if not cls.diffusers_name:
        name = content.get("_class_name")
        classes = {c.diffusers_name: c for c in _subclasses(cls) if vars(c).get("diffusers_name")}
        if name not in classes:
            where = "" if isinstance(config, Mapping) else f"{config}: "
            raise ValueError(
                f"{where}there is no sampler for _class_name {name!r}; there are {sorted(classes)}"
            )
        cls = classes[name]
    unchosen = content.get(UNCHOSEN) or ()
    given = _today({k: v for k, v in content.items() if not k.startswith("_") and k not in unchosen})
    own = _options(cls)
    others = set[str]().union(*(_options(c) for c in _subclasses(_root(cls)))) - own.keys()
    unknown = sorted(key for key in given.keys() - own.keys() - others if given[key] is not None)
    if unknown:
        warnings.warn(
            f"{cls.__name__}.from_config: no sampler knows the options {unknown}; they are ignored",
            stacklevel=3,
        )
    missed = {
        key: value for key, value in OF_THE_NETWORK.items() if given.get(key) == value and key not in own
    }
    if missed:
        warnings.warn(
            f"{cls.__name__}.from_config: the network was trained for {missed}, which {cls.__name__} does not have; "
            "expect other images",
            stacklevel=3,
        )
    known = {key: _not_null(value, own[key]) for key, value in given.items() if key in own}
    return cls, known, {key: value for key, value in given.items() if key in others}


def _not_null(value: Any, default: Any) -> Any:
    """What null says of an option that cannot be None: that a switch is off, and otherwise nothing."""
    if value is not None or default is None:
        return value
    return False if isinstance(default, bool) else default


def _today(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of old files under the names of today, which count where there are both."""
    renamed: dict[str, Any] = {}
    for key in options.keys() & OLD.keys():
        renamed |= OLD[key](options[key])
    return renamed | {key: value for key, value in options.items() if key not in OLD}


def write_options(config: Mapping[str, Any], folder: Path) -> Path:
    """Write a configuration into the folder's file, under diffusers' names."""
    kept = {
        key: DIFFUSERS.get(value, value) if key == "beta_schedule" else value for key, value in config.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(kept, indent=2) + "\n")
    return folder / FILE


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    places = [path / FILE, path / "scheduler" / FILE]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{path}: there is neither {FILE} nor scheduler/{FILE}")


def _options(cls: type[Any]) -> dict[str, Any]:
    """The names of a sampler's options, and their defaults."""
    return {field.name: field.default for field in fields(cls) if field.name != "schedule"}


def _root(cls: type[Any]) -> type[Any]:
    """The first ancestor that is a dataclass: `Sampler`."""
    return next(c for c in reversed(cls.__mro__) if hasattr(c, "__dataclass_fields__"))


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)
