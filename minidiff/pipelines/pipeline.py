"""A network and the sampler it is drawn from with: what all pipelines begin with, and the folder it lives in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minidiff.backend import Array, Backend, backend_of
from minidiff.diffusion import Sampler, samplers_like
from minidiff.diffusion.samplers.configuration import read_config
from minidiff.files import atomic_folder
from minidiff.models import UNet2DModel
from minidiff.models.pretrained import CONFIG
from minidiff.weights import STEM, CheckpointError, read_json, shown

__all__ = ["Pipeline", "load_pipeline", "save_pipeline"]

INDEX = "model_index.json"
CLASSES = {"DDIMScheduler": "DDIMPipeline"}  # of diffusers, by scheduler; every other one is a DDPMPipeline's
SAMPLES_BY = {"DDIMPipeline": "DDIMScheduler"}  # whatever scheduler the folder has


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A network and a sampler.

    Parameters
    ----------
    model : callable
        `model(x, t)`, or `model(x, t, labels=labels)`: a `models.UNet2DModel`, another module, or any function.
    sampler : Sampler
        With the schedule and prediction type that the network was trained for.
    image_shape : tuple of int, optional
        (C, H, W) of what is drawn. By default the network's `config` says it: `out_channels`, half of them if the
        variance is learned or they are twice `in_channels`, and `sample_size`.

    Raises
    ------
    ValueError
        If `image_shape` is needed.

    Examples
    --------
    >>> from minidiff import Generator
    >>> from minidiff.diffusion import DDIM
    >>> from minidiff.pipelines import generate
    >>> pipeline = Pipeline(lambda x, t: 0 * x, DDIM(), image_shape=(1, 8, 8))
    >>> generate(pipeline, 3, steps=5, generator=Generator(0)).shape
    (3, 1, 8, 8)
    """

    model: Any
    sampler: Sampler
    image_shape: tuple[int, int, int] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "image_shape", tuple(self.image_shape) or _image_shape(self.model, self.sampler)
        )

    @property
    def weights(self) -> list[Array]:
        """The arrays of the network as they are now, none if it is a function."""
        return list(self.model.state_dict().values()) if hasattr(self.model, "state_dict") else []

    def with_sampler(self, name: str, **options: Any) -> Pipeline:
        """The same network with another sampler.

        Parameters
        ----------
        name : str
            One of the family of the present sampler (`diffusion.SAMPLER_FAMILIES`): for a network of a noise
            schedule, one of EDM, one of flow matching.
        **options
            Of the sampler. Others are those that were chosen for the present one; see `Sampler.config`.

        Raises
        ------
        ValueError
            If no sampler of the family has the name.
        """
        family = samplers_like(self.sampler)
        if name not in family:
            raise ValueError(
                f"sampler {name!r} does not fit a network made for {self.sampler!r}; those that do are {list(family)}"
            )
        return replace(self, sampler=family[name].from_config(self.sampler.config, **options))

    @property
    def backend(self) -> Backend | None:
        """Where the network lives; None if it has no parameters."""
        weights = self.weights
        return backend_of(weights[0]) if weights else None


def load_pipeline(
    folder: str | Path, *, device: str | Backend = "cpu", dtype: str | None = None, variant: str | None = None
) -> Pipeline:
    """Read a folder of diffusers: `model_index.json`, `unet/`, `scheduler/`.

    In older folders the parts lie beside the index; they are read, too.

    Parameters
    ----------
    folder : str or Path
    device : str or Backend
        Where the parameters go.
    dtype : str, optional
        Of the parameters, in which the network then computes: "float32" by default, "float16" or "bfloat16".
    variant : str, optional
        "fp16" for `diffusion_pytorch_model.fp16.safetensors`.

    Raises
    ------
    CheckpointError
        If a part is missing, damaged, or of a kind that minidiff does not have.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder / INDEX}: no such file; python -m minidiff convert '{folder}' says what is there"
        )
    index = read_json(folder / INDEX)
    _check_parts(index, folder)
    unet, scheduler = (
        folder / part if (folder / part).is_dir() else folder for part in ("unet", "scheduler")
    )
    sampler = _read_sampler(scheduler, index)  # first: it is small
    model = UNet2DModel.from_pretrained(unet, device=device, dtype=dtype, variant=variant)
    try:
        return Pipeline(model, sampler)
    except ValueError as error:
        raise CheckpointError(f"{unet / CONFIG}: {error}") from None


def save_pipeline(
    pipeline: Pipeline, folder: str | Path, *, dtype: str | None = None, variant: str | None = None
) -> None:
    """Write a folder that `load_pipeline` and diffusers read, all of it or nothing.

    Parameters
    ----------
    pipeline : Pipeline
        Its model must be a `models.UNet2DModel`.
    folder : str or Path
        If it is a pipeline already, its parts are replaced and its other files stay.
    dtype, variant
        See `UNet2DModel.save_pretrained`.

    Raises
    ------
    FileExistsError
        If `folder` holds something else.
    TypeError
        If the model has no folder to be read from.
    """
    folder = Path(folder)
    if not isinstance(pipeline.model, UNet2DModel):
        raise TypeError(f"save_pipeline: expected a UNet2DModel, got {type(pipeline.model).__name__}")
    if folder.exists() and not (folder / INDEX).is_file() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: holds files, but no {INDEX}; give a new folder, or one of a pipeline"
        )
    scheduler = pipeline.sampler.config["_class_name"]
    index = {
        "_class_name": CLASSES.get(scheduler, "DDPMPipeline"),
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DModel"],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as unfinished:
        if folder.exists():
            kept = shutil.ignore_patterns("unet", "scheduler", INDEX, f"{STEM}*")
            shutil.copytree(folder, unfinished, ignore=kept, dirs_exist_ok=True)
        pipeline.model.save_pretrained(unfinished / "unet", dtype=dtype, variant=variant)
        pipeline.sampler.save_config(unfinished / "scheduler")
        (unfinished / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read_sampler(folder: Path, index: dict[str, Any]) -> Sampler:
    """The sampler of a folder, of the class that the index names."""
    try:
        config = read_config(folder)
    except OSError as error:
        raise CheckpointError(str(error)) from None
    config["_class_name"] = SAMPLES_BY.get(str(index.get("_class_name")), index["scheduler"][1])
    try:
        return Sampler.from_config(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _check_parts(index: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError for pipelines of other parts than a U-Net without text and a scheduler."""
    parts = {key: part[1] for key, part in index.items() if _is_part(part) and not key.startswith("_")}
    if parts.keys() != {"unet", "scheduler"}:
        raise CheckpointError(
            f"{folder / INDEX}: expected a pipeline of 'unet' and 'scheduler', found "
            f"{shown(index.get('_class_name'))} of {shown(parts)}; UNet2DModel.from_pretrained(folder, "
            "subfolder=...) and Sampler.from_config(folder) read parts alone"
        )
    if parts["unet"] != UNet2DModel.__name__:
        raise CheckpointError(
            f"{folder / INDEX}: there is no network {shown(parts['unet'])} here, only UNet2DModel"
        )


def _is_part(value: Any) -> bool:
    """Whether a value of the index names a library and a class, and not [null, null]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)


def _image_shape(model: Any, sampler: Sampler) -> tuple[int, int, int]:
    config = getattr(model, "config", {})
    size, channels = config.get("sample_size"), config.get("out_channels")
    sides = [size, size] if isinstance(size, int) else size
    if not channels or not isinstance(sides, list | tuple) or len(sides) != 2 or not all(sides):
        raise ValueError(
            f"Pipeline: the configuration of {type(model).__name__} does not say how large images are; "
            "give image_shape=(C, H, W)"
        )
    height, width = sides
    learned = str(getattr(sampler, "variance_type", "")).startswith("learned")
    if learned or channels == 2 * config.get("in_channels", 0):  # the other half says a variance
        channels //= 2
    return channels, height, width
