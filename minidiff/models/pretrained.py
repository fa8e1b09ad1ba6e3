"""Models that live in folders: `from_pretrained` and `save_pretrained`, in the layout of diffusers.

    FOLDER/config.json                            the class and the arguments of its constructor
    FOLDER/diffusion_pytorch_model.safetensors    parameters, under PyTorch's names

A model that is about to be loaded is made without drawing weights: `Unset` stands in for its generator, and its
parameters take no memory before they are read.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from minidiff.backend import Array, Backend, backend_of
from minidiff.nn import Module
from minidiff.ops.support import dtype_name, find_dtype
from minidiff.random import Generator
from minidiff.weights import (
    CheckpointError,
    Weights,
    check_floating_name,
    open_weights,
    read_json,
    refuse_constant,
    shown,
    write_weights,
)

__all__ = ["CONFIG", "PretrainedModule", "load_weights", "make_unset", "split_config"]

CONFIG = "config.json"
M = TypeVar("M", bound=Module)


class PretrainedModule(Module):
    """A module that a folder can hold.

    A subclass takes the keys of its configuration as arguments, and `rng=`; it keeps them, as JSON values, in
    `config`.
    """

    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rng: Generator | None = None) -> Self:
        """A model with new weights, from what a `config.json` says.

        Parameters
        ----------
        config : mapping
            Keys that the class does not know are reported by a warning, except those that begin with "_".
        rng : Generator, optional
            Draws the initial values; its device is where they live. `Generator(0)` by default.

        Raises
        ------
        CheckpointError
            If the configuration is another class's.
        TypeError, ValueError
            If a value makes no sense.
        """
        make: Callable[..., Self] = cls
        return make(**split_config(cls, config), rng=rng)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | Backend = "cpu",
        dtype: Any = None,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> Self:
        """A model and its weights out of a folder.

        Files are mapped into memory, and their tensors copied one after the other, so that loading takes the
        memory of the parameters and of the largest of them once more.

        Parameters
        ----------
        folder : str or Path
            With `config.json` and `diffusion_pytorch_model.safetensors`, or shards and their index.
        device : str or Backend
            Where the parameters go.
        dtype : optional
            Of the parameters: "float32", the default, whatever the file holds, "float16" or "bfloat16".
        variant : str, optional
            "fp16" for `diffusion_pytorch_model.fp16.safetensors`.
        subfolder : str, optional
            The part of a pipeline: "unet".

        Raises
        ------
        CheckpointError
            If something is missing, damaged, pickled, of another class, or does not fit; tensors are named,
            with both shapes.
        ValueError
            If `dtype` is none for parameters.
        """
        dtype = "float32" if dtype is None else dtype_name(dtype)
        check_floating_name(dtype)
        folder = Path(folder) / (subfolder or "")
        config = _read_config(folder)
        weights = open_weights(folder, variant=variant)
        try:
            arguments = split_config(cls, config)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / CONFIG}: {error}") from None
        model = make_unset(cls, arguments, weights, device, where=folder / CONFIG)
        load_weights(model, weights, cls.renamed, dtype=dtype, where=folder)
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: Any = None,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
    ) -> None:
        """Write the model into a folder that `from_pretrained`, here and in diffusers, can read.

        Parameters
        ----------
        folder : str or Path
            Made if it does not exist; weights that it holds are replaced, other files stay.
        dtype : optional
            Of the numbers in the file: "float32", "float16" or "bfloat16"; that of the parameters by default.
        variant : str, optional
            "fp16" for `diffusion_pytorch_model.fp16.safetensors`.
        max_shard_size : int or str
            Larger weights are split into several files: 5_000_000_000 or "5GB".
        """
        text = json.dumps({"_class_name": type(self).__name__, **self.config}, indent=2) + "\n"
        write_weights(
            folder,
            self.state_dict(),
            dtype=None if dtype is None else dtype_name(dtype),
            variant=variant,
            max_shard_size=max_shard_size,
            texts={CONFIG: text},
        )

    @classmethod
    def renamed(cls, state: Mapping[str, Array]) -> Mapping[str, Array]:
        """The state under the names of today, for folders written under older ones."""
        return state


class Unset(Generator):
    """Stands in for the generator of a model whose weights will be read: zeros that take no memory.

    Parameters
    ----------
    device : str or Backend
    numbers, draws : int
        How many are drawn at most: a damaged configuration asks for more than a file can fill.
    """

    def __init__(self, device: str | Backend, *, numbers: int, draws: int) -> None:
        super().__init__(0, device)
        self._left = {"numbers": numbers, "tensors": draws}

    def normal(self, shape: Any, *, dtype: Any = None) -> Array:
        """Zeros."""
        return self._zeros(shape, dtype)

    def uniform(self, shape: Any, *, low: float = 0.0, high: float = 1.0, dtype: Any = None) -> Array:
        """Zeros."""
        return self._zeros(shape, dtype)

    def _zeros(self, shape: Any, dtype: Any) -> Array:
        shape = tuple(map(operator.index, shape if isinstance(shape, tuple | list) else (shape,)))
        for what, taken in (("numbers", math.prod(shape)), ("tensors", 1)):
            self._left[what] -= taken
            if self._left[what] < 0:
                raise ValueError(f"it asks for many more {what} than the weights hold")
        xp = self.backend.xp
        return xp.broadcast_to(xp.zeros((), dtype=dtype or xp.float32), shape)


def make_unset(
    kind: Callable[..., M],
    arguments: Mapping[str, Any],
    weights: Weights,
    device: str | Backend,
    *,
    where: object,
) -> M:
    """A model that waits for `weights`; `where` begins the message of an error.

    Raises
    ------
    CheckpointError
        If `kind` does not take the arguments, or asks for far more than the weights hold.
    """
    rng = Unset(device, numbers=4 * weights.size + 2**24, draws=4 * len(weights) + 1000)
    try:
        return kind(**arguments, rng=rng)
    except Exception as error:  # a constructor trips over nonsense in ways of its own
        name = getattr(kind, "__name__", "model")
        why = textwrap.shorten(str(error) or repr(error), 500)
        raise CheckpointError(f"{where}: {name} cannot be made from it: {why}") from error


def load_weights(
    model: Module,
    weights: Weights,
    renamed: Callable[[Mapping[str, Array]], Mapping[str, Array]] = lambda state: state,
    *,
    dtype: str = "float32",
    where: object,
) -> None:
    """Read `weights` into a model of `make_unset`; `where` begins the message of an error.

    Raises
    ------
    CheckpointError
        If names, shapes or dtypes do not fit.
    """
    for p in model.parameters().values():
        backend = backend_of(p.data)
        kind = find_dtype(backend.xp, dtype)
        p.data = backend.xp.broadcast_to(backend.xp.zeros((), dtype=kind), p.shape)
    try:
        model.load_state_dict(weights.one_by_one(renamed(dict(weights))))
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


def split_config(kind: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `kind` in a configuration; keys that it does not know are reported by a warning.

    Raises
    ------
    CheckpointError
        If the configuration is another class's.
    """
    name = getattr(kind, "__name__", "model")
    found = config.get("_class_name", name)
    if found != name:
        raise CheckpointError(f"this is the configuration of {shown(found)}, not of {name!r}")
    known = set(inspect.signature(kind).parameters) - {"rng"}
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        keys = ", ".join(map(shown, unknown[:20])) + (", ..." if len(unknown) > 20 else "")
        warnings.warn(f"{name}: unknown configuration keys, which change nothing: {keys}", stacklevel=3)
    return {key: value for key, value in config.items() if key in known}


def _read_config(folder: Path) -> dict[str, Any]:
    if (folder / CONFIG).is_file():
        return read_json(folder / CONFIG, parse_constant=refuse_constant)
    if (folder / "model_index.json").is_file():
        parts = ", ".join(sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))) or "none"
        raise CheckpointError(
            f"{folder}: a pipeline, not a model; say which part with subfolder= (models here: {parts})"
        )
    raise CheckpointError(
        f"{folder}: no {CONFIG} here; python -m minidiff convert '{folder}' says what it is"
    )
