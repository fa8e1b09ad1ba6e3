"""Draw images from a pipeline of diffusers, without PyTorch.

    python examples/sample_pretrained.py --model FOLDER --sampler dpm-solver --steps 20

FOLDER holds `model_index.json`, `unet/` and `scheduler/`, as diffusers saves them and finetune.py writes them. Writes a
picture, with a row for each label if there are labels, and with --save-arrays the images as NumPy arrays: `images`
(N, C, H, W) in [-1, 1] and `labels` (N,).
"""

import argparse
from typing import Any

import numpy as np

from minidiff import Generator, cli, images
from minidiff.pipelines import Guidance, generate


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Draw images from a pipeline of diffusers.")
    number = "default: %(default)s"
    cli.add_pipeline_arguments(parser)
    cli.add_arguments(parser)
    cli.add_sampling_arguments(parser)
    parser.add_argument(
        "--labels", help="such as 0-9 or 3,5,7 (default: the first ten, if there are classes)"
    )
    parser.add_argument("--count", type=cli.positive, default=8, help=f"images, or of each label ({number})")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help=f"towards the label; 1 is none ({number})"
    )
    parser.add_argument("--guidance-rescale", type=float, default=0.0, help=f"from 0 to 1 ({number})")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=(0.0, float("inf")),
        help="guide only where sigma / alpha lies between (default: everywhere)",
    )
    parser.add_argument("--output", type=cli.output_file, default="samples.png", help=number)
    parser.add_argument(
        "--save-arrays", type=cli.output_file, metavar="FILE.npz", help="also save the arrays"
    )
    parser.add_argument(
        "--save-strip", type=cli.output_file, metavar="FILE.png", help="also show the images emerge"
    )
    return parser.parse_args()


def main() -> None:
    """Draw."""
    args = arguments()
    backend = cli.choose_device(args.device)
    pipeline = cli.with_sampler(cli.open_pipeline(args, backend), args.sampler, guidance=args.guidance)
    print(f"model: {args.model}, {pipeline.model.num_parameters():,} parameters\nsampler: {pipeline.sampler}")

    null = pipeline.model.null_label
    classes = 0 if null is None else null + 1  # the last may mean any
    wanted = args.labels or (f"0-{min(10, max(null, 1)) - 1}" if classes else "")
    chosen = cli.parse_labels(wanted, classes) if wanted else []
    labels = np.repeat(chosen, args.count).tolist()
    frames: list[np.ndarray] = []

    def remember(i: int, t: float, x: Any, x0: Any) -> None:
        """Keep one image of each label, or the first ones, as the network sees them in this step."""
        frames.append(backend.to_numpy(x0[:: args.count if chosen else 1, ...])[:8])

    with cli.as_usage_error():
        drawn = generate(
            pipeline,
            len(labels) or args.count,
            labels=labels or None,
            guidance=Guidance(args.guidance, args.guidance_rescale, tuple(args.guidance_interval)),
            steps=args.steps,
            generator=Generator(args.seed, backend),
            batch_size=args.batch_size,
            callback=remember if args.save_strip else None,
            progress=True,
        )
    host = backend.to_numpy(drawn)

    captions = [str(label) for label in chosen]
    images.save_png(args.output, images.grid(host, args.count if chosen else None, row_captions=captions))
    print(f"{len(host)} images: {args.output}")
    if args.save_arrays:
        cli.save_arrays(args.save_arrays, images=host, labels=np.asarray(labels, dtype=np.int64))
    if args.save_strip:
        shown = np.linspace(0, len(pipeline.sampler.timesteps) - 1, min(10, args.steps)).round().astype(int)
        captions = [f"step {i + 1}" for i in shown]
        images.save_png(args.save_strip, images.strip([frames[i] for i in shown], column_captions=captions))
        print(f"strip: {args.save_strip}")


if __name__ == "__main__":
    cli.run(main)
