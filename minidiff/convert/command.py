"""`python -m minidiff convert`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from minidiff.convert.inspect import kind_of
from minidiff.convert.rewrite import rewrite
from minidiff.weights import CheckpointError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what a checkpoint is, or write it into a new folder.

    Raises
    ------
    CheckpointError
        If it is damaged, pickled, none, or cannot be written so.
    """
    parser = argparse.ArgumentParser(
        prog="python -m minidiff convert",
        description="Say what a checkpoint is: a run or a checkpoint of minidiff, a pipeline, a model or a "
        "scheduler of diffusers, or a safetensors file. With --output, write it as a folder of diffusers.",
    )
    parser.add_argument("checkpoint", type=Path, help="a folder or a file")
    parser.add_argument("--output", type=Path, help="a new folder; a run's averaged weights go into it")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights written")
    parser.add_argument("--variant", help="which weights to read: fp16 for *.fp16.safetensors")
    args = parser.parse_args(arguments)
    if args.output is None and (args.dtype or args.variant):
        parser.error("--dtype and --variant are for --output")
    kind = kind_of(args.checkpoint)
    if args.output is None:
        print(f"{args.checkpoint}: {kind.name}")
        for line in kind.describe(args.checkpoint):
            print(f"  {line}")
        return 0
    if kind.rewrite is None:
        raise CheckpointError(f"{args.checkpoint}: {kind.name} holds no weights to write")
    rewrite(kind.rewrite, args.checkpoint, args.output, dtype=args.dtype, variant=args.variant)
    print(f"{args.checkpoint}: {kind.name}, written to {args.output}")
    return 0
