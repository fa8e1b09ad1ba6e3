"""Train a class-conditional U-Net on 1,797 real handwritten digits, and draw new ones while it learns.

    python examples/train_digits.py --device cpu

The digits are 8x8 pixels and come with minidiff. The network learns to predict v [1]_ from noisy digits and,
because one label in ten is hidden from it, also what digits look like in general, which guidance needs [2]_.
The same command goes on with a run that was stopped; sample.py draws from the result.

.. [1] Salimans, Ho, "Progressive distillation for fast sampling of diffusion models", 2022, arXiv:2202.00512.
.. [2] Ho, Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
"""

import argparse
from typing import Any

from minidiff import Generator, cli, images
from minidiff.data import load_digits
from minidiff.diffusion import GaussianDiffusion, NoiseSchedule
from minidiff.models import UNet
from minidiff.optim import EMA, Adam, lr
from minidiff.training import Trainer


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Train a diffusion model on 8x8 handwritten digits.")
    cli.add_arguments(parser, output_dir="outputs/digits")
    cli.add_training_arguments(parser, steps=1600, batch_size=64, learning_rate=2e-3)
    parser.add_argument(
        "--channels", type=cli.positive, default=16, help="width of the U-Net (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    """Train; the exit code is 130 if Ctrl-C ended it early."""
    args = arguments()
    backend = cli.choose_device(args.device)
    rng = Generator(args.seed, backend)
    dataset = load_digits()
    diffusion = GaussianDiffusion(
        NoiseSchedule(beta_schedule="cosine"),
        prediction_type="v_prediction",
        null_probability=0.1,
        stratified=True,
    )
    model = UNet(1, args.channels, 1, num_classes=dataset.num_classes, rng=rng)
    print(
        f"data: {dataset}\nmodel: U-Net with {model.num_parameters():,} parameters\nfiles: {args.output_dir}"
    )

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        return diffusion.loss(network, x, noise, labels=labels, null_label=model.null_label)

    def draw(step: int) -> None:
        """Save a picture with eight new digits of each class."""
        labels = list(range(10)) * 8
        x = diffusion.sample(
            model, (80, *dataset.image_shape), labels=labels, guidance=2.0, rng=Generator(args.seed, backend)
        )
        path = args.output_dir / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.save_png(path, images.grid(x, columns=10, column_captions=dataset.class_names))

    trainer = Trainer(
        model=model,
        loss=loss,
        dataset=dataset,
        optimizer=Adam(model, lr=lr.warmup_cosine(args.learning_rate, min(100, args.steps // 2), args.steps)),
        ema=EMA(model, decay=0.995),
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
