"""Learn XOR with a small MLP: the first network anyone trains, on any array library.

python examples/xor.py
"""

import argparse

import numpy as np

from minidiff import Generator, cli, ops, value_and_grad
from minidiff.nn import MLP
from minidiff.optim import Adam


def main() -> int:
    """Train until the loss is small; the exit code is 1 if it is not."""
    parser = argparse.ArgumentParser(description="Learn XOR with an MLP.")
    cli.add_arguments(parser)
    parser.add_argument("--steps", type=cli.positive, default=500, help="default: %(default)s")
    args = parser.parse_args()
    backend = cli.choose_device(args.device)

    x = backend.from_numpy(np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32))
    y = backend.from_numpy(np.asarray([[0], [1], [1], [0]], dtype=np.float32))
    model = MLP((2, 8, 1), activation="tanh", rng=Generator(args.seed, backend))
    print(f"model: MLP with {model.num_parameters()} parameters")

    optimizer = Adam(model, lr=0.05)
    step = value_and_grad(lambda: ops.binary_cross_entropy_with_logits(model(x), y), model)
    for i in range(1, args.steps + 1):
        loss, grads = step()
        optimizer.step(grads)
        if i % 100 == 0 or i == args.steps:
            print(f"step {i}/{args.steps}  loss {float(loss):.5f}")

    for row, p in zip(backend.to_numpy(x), backend.to_numpy(ops.sigmoid(model(x)))[:, 0], strict=True):
        print(f"{int(row[0])} xor {int(row[1])} = {p:.3f}")
    return 0 if float(loss) < 0.01 else 1


if __name__ == "__main__":
    cli.run(main)
