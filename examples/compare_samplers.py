"""What samplers make of the same noise: a picture with a row for each sampler and a column for each number of steps.

    python examples/compare_samplers.py --model FOLDER --samplers ddim,dpm-solver,unipc --steps 5,10,20,50

--model is a pipeline as diffusers saves it. The samplers are those that draw from networks of its kind: with a noise
schedule, of EDM, or of flow matching. With --count, several images of each are shown side by side.
"""

import argparse
from itertools import product

import numpy as np

from minidiff import Generator, cli, images
from minidiff.diffusion import SAMPLER_FAMILIES, samplers_like
from minidiff.pipelines import generate

FEW = ("ddpm", "ddim", "euler", "heun", "pndm", "dpm-solver", "unipc")


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Compare samplers on the same noise.")
    number = "default: %(default)s"
    cli.add_pipeline_arguments(parser)
    cli.add_arguments(parser)
    parser.add_argument(
        "--samplers",
        help=f"of {' or of '.join(', '.join(family) for family in SAMPLER_FAMILIES)} "
        f"(default: {','.join(FEW)}, or all of EDM or flow matching)",
    )
    parser.add_argument("--steps", default="5,10,20,50", help=number)
    parser.add_argument("--count", type=cli.positive, default=2, help=f"images of each ({number})")
    parser.add_argument(
        "--label", help="of the first image; then counting up (default: 0, if there are classes)"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, help=f"towards the label; 1 is none ({number})"
    )
    parser.add_argument("--output", type=cli.output_file, default="samplers.png", help=number)
    return parser.parse_args()


def main() -> None:
    """Draw."""
    args = arguments()
    steps = args.steps.split(",")
    if not all(step.isdecimal() and int(step) > 0 for step in steps):
        raise cli.UsageError(f"--steps are numbers such as 5,10,20, got {args.steps}")
    backend = cli.choose_device(args.device)
    pipeline = cli.open_pipeline(args, backend)
    classes, labels = pipeline.model.null_label or 0, None
    if args.label or classes:
        first = cli.parse_labels(args.label or "0", classes)[0]
        labels = [(first + i) % classes for i in range(args.count)]

    family = samplers_like(pipeline.sampler)
    names = (
        args.samplers.split(",") if args.samplers else [name for name in FEW if name in family] or [*family]
    )
    samplers = [cli.with_sampler(pipeline, name, guidance=args.guidance) for name in names]
    with cli.as_usage_error():  # before any of them draws
        for sampled, step in product(samplers, steps):
            sampled.sampler.set_timesteps(int(step))

    rows = []
    for sampled in samplers:
        for step in steps:
            with cli.as_usage_error():
                drawn = generate(
                    sampled,
                    args.count,
                    labels=labels,
                    guidance=args.guidance,
                    steps=int(step),
                    generator=Generator(args.seed, backend),
                    progress=True,
                )
            rows.append(backend.to_numpy(drawn))
    # (samplers * steps, count, ...): the images of a cell lie side by side, so they are one wide image
    cells = np.stack(rows)
    wide = np.concatenate([cells[:, i] for i in range(args.count)], axis=-1)
    captions = [f"{step} steps" for step in steps]
    picture = images.grid(wide, len(steps), row_captions=names, column_captions=captions)
    images.save_png(args.output, picture)
    print(f"{len(names)} samplers: {args.output}")


if __name__ == "__main__":
    cli.run(main)
