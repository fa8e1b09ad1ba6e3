"""Show the forward process: how digits fade into noise under a schedule.

python examples/noise_strip.py --beta-schedule cosine
"""

import argparse

import numpy as np

from minidiff import Generator, cli, images
from minidiff.data import load_digits
from minidiff.diffusion import BETA_SCHEDULES, NoiseSchedule


def main() -> None:
    """Draw the strip."""
    parser = argparse.ArgumentParser(description="Show how digits fade into noise.")
    cli.add_arguments(parser, output_dir="outputs/noise")
    parser.add_argument(
        "--beta-schedule", default="cosine", choices=BETA_SCHEDULES, help="default: %(default)s"
    )
    parser.add_argument(
        "--moments", type=cli.positive, default=10, help="columns of the picture (default: %(default)s)"
    )
    parser.add_argument(
        "--digits", type=cli.positive, default=5, help="rows of the picture (default: %(default)s)"
    )
    args = parser.parse_args()
    backend = cli.choose_device(args.device)
    schedule = NoiseSchedule(beta_schedule=args.beta_schedule)

    x0 = backend.from_numpy(load_digits().batch(np.arange(args.digits))[0])
    noise = Generator(args.seed, backend).normal(x0.shape)
    timesteps = np.linspace(0, schedule.num_train_timesteps - 1, args.moments).round().astype(int).tolist()
    frames = [schedule.add_noise(x0, noise, t) for t in timesteps]

    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / f"{args.beta_schedule}.png"
    images.save_png(path, images.strip(frames, column_captions=[f"t={t}" for t in timesteps]))
    print(f"picture: {path}")


if __name__ == "__main__":
    cli.run(main)
