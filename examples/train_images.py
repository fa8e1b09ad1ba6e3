"""Train a U-Net on your own pictures, or on MNIST, Fashion-MNIST or CIFAR-10.

    python examples/train_images.py --data-dir FOLDER

FOLDER holds IDX files (MNIST, Fashion-MNIST, gzipped or not), the binary version of CIFAR-10, or pictures:
PNG, JPEG, WebP and others, which are cropped to squares of --image-size pixels. If the pictures lie in
sub-folders, each sub-folder is a class. The same command goes on with a run that was stopped; sample.py
draws from the result.
"""

import argparse
from pathlib import Path
from typing import Any

from minidiff import Generator, cli, images
from minidiff.data import Dataset, open_dataset
from minidiff.diffusion import BETA_SCHEDULES, PREDICTION_TYPES, GaussianDiffusion, NoiseSchedule
from minidiff.models import UNet
from minidiff.optim import EMA, AdamW, lr
from minidiff.training import Trainer


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Train a diffusion model on images.")
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="IDX files, CIFAR-10 binary, or pictures"
    )
    parser.add_argument(
        "--image-size", type=cli.positive, help="side in pixels; pictures of a folder need one (32, say)"
    )
    cli.add_arguments(parser, output_dir="outputs/images")
    cli.add_training_arguments(parser, steps=20_000, batch_size=64, learning_rate=4e-4)
    parser.add_argument(
        "--channels", type=cli.positive, default=64, help="width of the U-Net (default: %(default)s)"
    )
    parser.add_argument("--attention", action="store_true", help="self-attention at the lowest resolution")
    parser.add_argument(
        "--beta-schedule", default="cosine", choices=BETA_SCHEDULES, help="default: %(default)s"
    )
    parser.add_argument("--prediction-type", default="v_prediction", choices=PREDICTION_TYPES)
    parser.add_argument(
        "--min-snr-gamma", type=cli.positive_float, help="weigh the loss by min-SNR, 5 is usual (default: no)"
    )
    parser.add_argument(
        "--weight-decay", type=cli.not_negative, default=0.0, help="of AdamW (default: %(default)s)"
    )
    parser.add_argument(
        "--ema-decay",
        type=cli.share,
        default=0.9995,
        help="of the average that draws, from 0 to below 1 (default: %(default)s)",
    )
    return parser.parse_args()


def padded_to_fours(dataset: Dataset) -> tuple[int, int, int]:
    """The shape of images to train on; an error if the U-Net cannot halve it twice."""
    channels, height, width = dataset.image_shape
    if height % 4 or width % 4:
        raise cli.UsageError(
            f"{dataset.name}: {height}x{width} pixels do not divide by 4, which the U-Net needs; "
            f"use --image-size {round(height / 4) * 4}"
        )
    return channels, height, width


def main() -> int:
    """Train; the exit code is 130 if Ctrl-C ended it early."""
    args = arguments()
    backend = cli.choose_device(args.device)
    rng = Generator(args.seed, backend)
    dataset = open_dataset(args.data_dir, args.image_size)
    shape = padded_to_fours(dataset)
    diffusion = GaussianDiffusion(
        NoiseSchedule(beta_schedule=args.beta_schedule),
        prediction_type=args.prediction_type,
        null_probability=0.1,
        min_snr_gamma=args.min_snr_gamma,
        stratified=True,
    )
    classes = dataset.num_classes or None
    model = UNet(shape[0], args.channels, shape[0], num_classes=classes, attention=args.attention, rng=rng)
    print(
        f"data: {dataset}\nmodel: U-Net with {model.num_parameters():,} parameters\nfiles: {args.output_dir}"
    )

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        return diffusion.loss(network, x, noise, labels=labels, null_label=model.null_label)

    def draw(step: int) -> None:
        """Save a picture with 64 new images, a column for each of the first eight classes if there are classes."""
        labels = [i % min(8, classes) for i in range(64)] if classes else None
        x = diffusion.sample(
            model, (64, *shape), labels=labels, guidance=2.0, rng=Generator(args.seed, backend), progress=True
        )
        path = args.output_dir / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.save_png(path, images.grid(x, columns=min(8, classes or 8)))

    trainer = Trainer(
        model=model,
        loss=loss,
        dataset=dataset,
        optimizer=AdamW(
            model,
            lr=lr.warmup_cosine(args.learning_rate, min(500, args.steps // 2), args.steps),
            weight_decay=args.weight_decay,
        ),
        ema=EMA(model, decay=args.ema_decay),
        rng=rng,
        output_dir=args.output_dir,
        description=cli.describe_run(args, dataset, diffusion),
        steps=args.steps,
        batch_size=args.batch_size,
        checkpoint_every=args.checkpoint_every,
        sample_every=args.sample_every,
        on_sample=draw,
    )
    return cli.train(trainer, restart=args.restart)


if __name__ == "__main__":
    cli.run(main)
