"""Draw images from a trained model.

    python examples/sample.py --checkpoint outputs/digits --labels 0-9 --per-label 50 --guidance 2

Writes a picture with a row for each label, and with --save-arrays the images as NumPy arrays: `images`
(N, C, H, W) in [-1, 1] and `labels` (N,).
"""

import argparse
from pathlib import Path

import numpy as np

from minidiff import Generator, cli, images
from minidiff.checkpoints import load_model, read_diffusion
from minidiff.diffusion import SAMPLERS, make_sampler


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Draw images from a trained diffusion model.")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("outputs/digits"),
        help="a run or a checkpoint (default: %(default)s)",
    )
    cli.add_arguments(parser)
    parser.add_argument("--labels", help="such as 0-9 or 3,5,7 (default: all classes)")
    parser.add_argument(
        "--per-label", type=cli.positive, default=50, help="images of each label (default: %(default)s)"
    )
    parser.add_argument("--guidance", type=float, default=2.0, help="1 is none (default: %(default)s)")
    parser.add_argument(
        "--steps", type=cli.positive, default=50, help="of the sampler (default: %(default)s)"
    )
    parser.add_argument("--sampler", default="ddim", choices=SAMPLERS, help="default: %(default)s")
    parser.add_argument("--weights", default="ema", choices=("ema", "model"), help="averaged or as trained")
    parser.add_argument(
        "--batch-size", type=cli.positive, default=250, help="images at a time (default: %(default)s)"
    )
    parser.add_argument("--output", type=cli.output_file, default="samples.png", help="default: %(default)s")
    parser.add_argument(
        "--save-arrays", type=cli.output_file, metavar="FILE.npz", help="also save the arrays"
    )
    parser.add_argument(
        "--save-strip",
        type=cli.output_file,
        metavar="FILE.png",
        help="also show one image of each label emerge",
    )
    return parser.parse_args()


def main() -> None:
    """Draw."""
    args = arguments()
    backend = cli.choose_device(args.device)
    model, description = load_model(args.checkpoint, device=backend, weights=args.weights)
    diffusion = read_diffusion(description)
    try:
        make_sampler(args.sampler, diffusion.schedule).set_timesteps(args.steps)
    except ValueError as error:
        raise cli.UsageError(f"--steps: {error}") from None
    names, shape = description["class_names"], tuple(description["image_shape"])
    wanted = args.labels or (f"0-{len(names) - 1}" if names else "")
    classes = cli.parse_labels(wanted, len(names)) if wanted else []
    labels = np.repeat(np.asarray(classes, dtype=np.int64), args.per_label)
    count = len(labels) or args.per_label
    trained = description["training"]["step"]
    print(f"model: {args.checkpoint}, {model.num_parameters():,} parameters, trained for {trained} steps")

    rng = Generator(args.seed, backend)
    parts = [
        diffusion.sample(
            model,
            (min(args.batch_size, count - first), *shape),
            labels=labels[first : first + args.batch_size].tolist() if classes else None,
            guidance=args.guidance,
            sampler=args.sampler,
            steps=args.steps,
            rng=rng,
            progress=True,
        )
        for first in range(0, count, args.batch_size)
    ]
    drawn = np.concatenate([backend.to_numpy(part) for part in parts])

    columns = args.per_label if classes else None
    images.save_png(args.output, images.grid(drawn, columns, row_captions=[names[c] for c in classes]))
    print(f"{count} images: {args.output}")
    if args.save_arrays:
        cli.save_arrays(args.save_arrays, images=drawn, labels=labels)
    if args.save_strip:
        frames: list[np.ndarray] = []
        diffusion.sample(
            model,
            (len(classes) or 8, *shape),
            labels=classes or None,
            guidance=args.guidance,
            sampler=args.sampler,
            steps=args.steps,
            rng=Generator(args.seed, backend),
            callback=lambda i, t, x, x0: frames.append(backend.to_numpy(x)),
        )
        chosen = np.linspace(0, len(frames) - 1, min(10, len(frames))).round().astype(int)
        captions = [f"step {i + 1}" for i in chosen]
        images.save_png(args.save_strip, images.strip([frames[i] for i in chosen], column_captions=captions))
        print(f"strip: {args.save_strip}")


if __name__ == "__main__":
    cli.run(main)
