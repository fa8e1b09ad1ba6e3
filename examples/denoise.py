"""Remove noise from digits in one step, with the convolutional denoiser that diffusion grew from.

    python examples/denoise.py

Saves a picture: clean digits, noisy ones, and what the network makes of them.
"""

import argparse

from minidiff import Generator, cli, images, ops, value_and_grad
from minidiff.data import load_digits
from minidiff.models import SimpleDenoiser
from minidiff.optim import Adam
from minidiff.training import batch_indices


def main() -> int:
    """Train, and compare; the exit code is 1 if the network is no better than doing nothing."""
    parser = argparse.ArgumentParser(description="Train a denoiser on 8x8 handwritten digits.")
    cli.add_arguments(parser, output_dir="outputs/denoise")
    parser.add_argument("--steps", type=cli.positive, default=150, help="default: %(default)s")
    parser.add_argument(
        "--noise", type=cli.not_negative, default=0.4, help="standard deviation (default: %(default)s)"
    )
    args = parser.parse_args()
    backend = cli.choose_device(args.device)
    rng = Generator(args.seed, backend)
    dataset = load_digits()
    model = SimpleDenoiser(1, rng=rng)
    print(f"model: SimpleDenoiser with {model.num_parameters():,} parameters\nfiles: {args.output_dir}")

    optimizer = Adam(model, lr=1e-3)
    step = value_and_grad(lambda noisy, clean: ops.mse_loss(model(noisy), clean), model)
    held_out = len(dataset) - 100
    for i in range(args.steps):
        clean = backend.from_numpy(dataset.batch(batch_indices(i, held_out, 64, args.seed))[0])
        loss, grads = step(clean + args.noise * rng.normal(clean.shape), clean)
        optimizer.step(grads)
        if (i + 1) % 50 == 0:
            print(f"step {i + 1}/{args.steps}  loss {float(loss):.4f}")

    clean = backend.from_numpy(dataset.batch(slice(held_out, None))[0])
    noisy = clean + args.noise * rng.normal(clean.shape)
    restored = model(noisy)
    before, after = (float(ops.mse_loss(x, clean)) for x in (noisy, restored))
    print(f"100 digits it has never seen: error {before:.4f} before, {after:.4f} after")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "denoised.png"
    rows = ops.concat([clean[:12, ...], noisy[:12, ...], restored[:12, ...]])
    images.save_png(path, images.grid(rows, 12, row_captions=("clean", "noisy", "restored")))
    print(f"picture: {path}")
    return 0 if after < before else 1


if __name__ == "__main__":
    cli.run(main)
