"""What the example scripts share: arguments, the choice of a device, and exit codes."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minidiff.backend import Backend, BackendUnavailable, get_backend
from minidiff.checkpoints import CheckpointError
from minidiff.data import DataError, Dataset
from minidiff.diffusion import DDIM, SAMPLER_FAMILIES, GaussianDiffusion
from minidiff.files import alone_in, atomic_path
from minidiff.pipelines import Pipeline, load_pipeline
from minidiff.training import Trainer, TrainingError

__all__ = [
    "UsageError",
    "add_arguments",
    "add_pipeline_arguments",
    "add_sampling_arguments",
    "add_training_arguments",
    "as_usage_error",
    "choose_device",
    "describe_run",
    "natural",
    "not_negative",
    "open_pipeline",
    "output_file",
    "parse_labels",
    "positive",
    "positive_float",
    "run",
    "save_arrays",
    "share",
    "train",
    "with_sampler",
]


N = TypeVar("N", int, float)


class UsageError(ValueError):
    """An argument that makes no sense; the message says which."""


def add_arguments(parser: argparse.ArgumentParser, *, output_dir: str | None = None) -> None:
    """Add `--device`, `--seed` and, for scripts that write into a folder, `--output-dir`."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, or auto: a GPU if one works (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="same seed, same result (default: %(default)s)")
    if output_dir is not None:
        parser.add_argument(
            "--output-dir", type=Path, default=Path(output_dir), help="where files go (default: %(default)s)"
        )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _fitting(int(text), int(text) >= 1, "at least 1")


def natural(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _fitting(int(text), int(text) >= 0, "at least 0")


def positive_float(text: str) -> float:
    """A number above 0, for argparse."""
    return _fitting(float(text), 0 < float(text) < math.inf, "above 0")


def not_negative(text: str) -> float:
    """A number of at least 0, for argparse."""
    return _fitting(float(text), 0 <= float(text) < math.inf, "at least 0")


def share(text: str) -> float:
    """A number from 0 to less than 1, for argparse."""
    return _fitting(float(text), 0 <= float(text) < 1, "from 0 to less than 1")


def _seed(text: str) -> int:
    return _fitting(int(text), 0 <= int(text) < 2**64, "from 0 to 2**64 - 1")


def _fitting(number: N, fits: bool, what: str) -> N:
    if not fits:
        raise argparse.ArgumentTypeError(f"must be {what}, got {number}")
    return number


def output_file(text: str) -> Path:
    """A file that will be written, for argparse: its folder is looked for before the work, not after it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
    return path


def add_training_arguments(
    parser: argparse.ArgumentParser, *, steps: int, batch_size: int, learning_rate: float
) -> None:
    """Add what every training script can be told, with these defaults."""
    number = "default: %(default)s"
    parser.add_argument("--steps", type=positive, default=steps, help=f"of training ({number})")
    parser.add_argument("--batch-size", type=positive, default=batch_size, help=f"images per step ({number})")
    parser.add_argument(
        "--learning-rate", type=positive_float, default=learning_rate, help=f"its peak ({number})"
    )
    parser.add_argument(
        "--sample-every", type=positive, default=400, help=f"steps between pictures ({number})"
    )
    parser.add_argument("--checkpoint-every", type=positive, default=200, help=f"in steps ({number})")
    parser.add_argument(
        "--restart", action="store_true", help="delete the run in --output-dir and start anew"
    )


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which folder of diffusers is read, and how; see `open_pipeline`."""
    parser.add_argument("--model", type=Path, required=True, help="a folder of diffusers")
    parser.add_argument("--variant", help="of its weights: fp16 for *.fp16.safetensors")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: float32)"
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how images are drawn from it."""
    number = "default: %(default)s"
    names = [name for family in SAMPLER_FAMILIES for name in family]
    parser.add_argument("--sampler", choices=names, help="default: the folder's scheduler")
    parser.add_argument("--steps", type=positive, default=50, help=f"of the sampler ({number})")
    parser.add_argument("--batch-size", type=positive, default=64, help=f"images at a time ({number})")


def open_pipeline(args: argparse.Namespace, backend: Backend) -> Pipeline:
    """The pipeline that `add_pipeline_arguments` asked for."""
    return load_pipeline(args.model, device=backend, dtype=args.dtype, variant=args.variant)


def with_sampler(pipeline: Pipeline, name: str | None, *, guidance: float = 1.0) -> Pipeline:
    """The same network with the sampler called `name`, by default its own, as guidance needs it.

    Guidance overshoots and clipping pulls back: then DDIM's noise must follow the clipped image.
    """
    with as_usage_error():
        pipeline = pipeline.with_sampler(name) if name else pipeline
    if guidance != 1 and isinstance(pipeline.sampler, DDIM):
        pipeline.sampler.use_clipped_model_output = True
    return pipeline


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write NumPy arrays into one .npz file, whatever its name, and say so."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
    print(f"arrays: {path}")


def describe_run(args: argparse.Namespace, dataset: Dataset, diffusion: GaussianDiffusion) -> dict[str, Any]:
    """What a checkpoint says of a run beside its network: data, process, and what was typed that changes weights."""
    elsewhere = {"device", "output_dir", "restart", "sample_every", "checkpoint_every", "steps"}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in elsewhere}
    return {
        "diffusion": diffusion.describe(),
        "dataset": dataset.name,
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "settings": settings,
    }


def train(trainer: Trainer, *, restart: bool, then: str | None = None) -> int:
    """Train, or go on training, and say how it went, and what to do `then` (by default, to draw with sample.py).

    Returns
    -------
    int
        The exit code: 0 for a finished run, 130 after Ctrl-C.

    Raises
    ------
    FolderInUse
        If another process trains in the same folder.
    """
    with alone_in(trainer.output_dir):
        return _train(trainer, restart, then)


def _train(trainer: Trainer, restart: bool, then: str | None) -> int:
    if trainer.resume(restart=restart):
        print(f"found: {trainer.output_dir} at step {trainer.step} of {trainer.steps}")
    if trainer.step >= trainer.steps:
        print("This run is finished; --restart deletes it and trains anew.")
    elif not trainer.run():
        print(f"stopped at step {trainer.step} of {trainer.steps}; the same command goes on from here")
        return 130
    print(f"samples: {trainer.output_dir / 'samples'}")
    print(f"next: {then or f'python examples/sample.py --checkpoint {trainer.output_dir}'}")
    return 0


def choose_device(name: str) -> Backend:
    """The backend called `name`; for "auto" a GPU if one works, else the CPU. Prints which, and why.

    Raises
    ------
    BackendUnavailable
        If a device that was named does not work: there is no silent fallback.
    UsageError
        If no backend has that name.
    """
    why = "asked for"
    if name == "auto":
        try:
            name, why = "cuda", "a GPU works"
            get_backend(name)
        except BackendUnavailable as reason:
            name, why = "cpu", f"no GPU: {reason.cause}"
    try:
        backend = get_backend(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    print(f"device: {backend.device} ({why})")
    return backend


def parse_labels(text: str, count: int) -> list[int]:
    """Read labels below `count`, written "0-9" or "3,5,7".

    Raises
    ------
    UsageError
        If the text is something else, a label is out of range, or `count` is 0.
    """
    if not count:
        raise UsageError("labels: the network has no classes")
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise UsageError(f"labels: expected numbers and ranges such as 0-9 or 3,5,7, got {text!r}")
        begin, end = int(first), int(last if dash else first)
        if not begin <= end < count:
            raise UsageError(f"labels: {text!r} is not within 0 to {count - 1}")
        labels += range(begin, end + 1)
    return labels


@contextmanager
def as_usage_error() -> Iterator[None]:
    """What libraries call a ValueError inside is about what the user typed."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit.

    The code is 0 when it is done, 1 if training failed or no memory was left, 2 for wrong input or device, 130 if it
    was interrupted, 141 if whoever reads the output has enough of it, as `| head` does.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except TrainingError as error:
        code = _complain(error, 1)
    except MemoryError as error:
        advice = "lower the batch size or the size of the images, or wrap blocks of the model in minidiff.checkpoint"
        code = _complain(f"{error}; {advice}" if str(error) else advice, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        code = 141
    except (BackendUnavailable, CheckpointError, DataError, UsageError, OSError) as error:
        code = _complain(error, 2)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    sys.exit(code)


def _complain(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
