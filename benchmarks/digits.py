"""Measure how good the digits of the default run are, and how long it takes.

    python -m benchmarks.digits [--save]

Trains with examples/train_digits.py and draws with examples/sample.py, both with their defaults, then asks
scikit-learn: a support vector machine trained on the real digits reads the drawn ones, and the Frechet
distance compares means and covariances in pixel space with those of the real digits [1]_. Seconds say as much
about the machine as about minidiff, so a training step of a network of that size (without labels) also takes
turns with PyTorch's. The exit code is 1 if a promise is not kept.

.. [1] Heusel et al., "GANs trained by a two time-scale update rule", 2017, arXiv:1706.08500, equation 6,
   here on pixels in [0, 1].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.interleave import interleave
from benchmarks.parties import Minidiff, Party
from minidiff import Generator
from minidiff.data import load_digits
from minidiff.models import UNet

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMISES = {
    "guided accuracy": 0.99,
    "unguided accuracy": 0.97,
    "Frechet ratio": 1.0,
    "step to PyTorch's": 3.0,  # more than twice what it is: other programs slow one down more than the other
}
AT_LEAST = {"guided accuracy", "unguided accuracy"}


def frechet_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Squared distance between the Gaussians fitted to the rows of a and b."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * shared)


def distance_of_halves(real: NDArray[Any], splits: int = 20) -> float:
    """The mean distance between two random halves of the real digits: what chance alone gives."""
    rng = np.random.default_rng(0)
    orders = (rng.permutation(len(real)) for _ in range(splits))
    half = len(real) // 2
    return float(np.mean([frechet_distance(real[o[:half]], real[o[half:]]) for o in orders]))


def run(script: str, *arguments: object) -> float:
    """Run an example; return the seconds it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, str(EXAMPLES / script), *map(str, arguments)], check=True)
    return time.perf_counter() - began


def draw(folder: Path, name: str, *arguments: object) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Images (N, 64) in [0, 1], their labels, and the seconds it took."""
    files = folder / f"{name}.png", folder / f"{name}.npz"
    seconds = run(
        "sample.py", "--checkpoint", folder, "--output", files[0], "--save-arrays", files[1], *arguments
    )
    arrays = np.load(files[1])
    return ((arrays["images"] + 1) / 2).reshape(-1, 64), arrays["labels"], seconds


def step_beside_pytorch(rounds: int = 9) -> dict[str, Any]:
    """The times of a training step on 64 images of 8x8 pixels, of both libraries on all cores, and their ratio.

    Each is the quickest of its rounds: what other programs take, they take from both, but not from every round.
    """
    from benchmarks.torch_networks import Eager

    model = UNet(1, 16, 1)
    parties: dict[str, Party] = {"minidiff": Minidiff(model), "PyTorch": Eager(model)}
    x, noise = Generator(1).normal((2, 64, 1, 8, 8))
    timesteps = np.linspace(0, 999, 64).astype(np.int64)
    works = {}
    for name, party in parties.items():
        party.use_threads(machine.describe()["cores"])
        works[name] = [party.training_step(x, timesteps, noise)]
    (comparison,) = interleave("step", works, rounds=rounds, least=0.5)
    ours, theirs = (min(comparison.seconds[name]) for name in parties)
    return {
        "step ms": {"minidiff": round(1e3 * ours, 1), "PyTorch": round(1e3 * theirs, 1)},
        "step to PyTorch's": round(ours / theirs, 2),
    }


def measure(folder: Path, seed: int) -> dict[str, Any]:
    """Train, draw, and read what was drawn."""
    from sklearn.svm import SVC

    real, labels = load_digits().batch(slice(None))
    real = ((real + 1) / 2).reshape(-1, 64).astype(np.float64)
    reader = SVC(gamma=0.001).fit(real * 16, labels)
    seconds = run("train_digits.py", "--device", "cpu", "--seed", seed, "--output-dir", folder)
    guided, guided_labels, guided_seconds = draw(folder, "guided")
    unguided, unguided_labels, _ = draw(folder, "unguided", "--guidance", 1, "--per-label", 100)
    halves = distance_of_halves(real)
    distance = frechet_distance(unguided, real)
    return {
        "seed": seed,
        "training seconds": round(seconds, 1),
        "sampling seconds (500 guided)": round(guided_seconds, 1),
        "guided accuracy": float((reader.predict(guided * 16) == guided_labels).mean()),
        "unguided accuracy": float((reader.predict(unguided * 16) == unguided_labels).mean()),
        "Frechet distance": round(distance, 5),
        "Frechet distance of halves": round(halves, 5),
        "Frechet ratio": round(distance / halves, 4),
        **step_beside_pytorch(),
    }


def main() -> int:
    """Measure, print, and compare with the promises."""
    parser = argparse.ArgumentParser(description="Quality and time of the default digits run.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/digits.json")
    args = parser.parse_args()
    missing = [name for name in ("sklearn", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        install = f'{sys.executable} -m pip install ".[test,bench]"'
        print(
            f"error: {' and '.join(missing)} missing; in the project's folder, run {install}", file=sys.stderr
        )
        return 1
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.seed)
    print(json.dumps(figures, indent=2))
    if args.save:
        print(machine.save("digits", figures))
    broken = [
        f"{name} is {figures[name]}, promised {'at least' if name in AT_LEAST else 'at most'} {promise}"
        for name, promise in PROMISES.items()
        if (figures[name] < promise if name in AT_LEAST else figures[name] > promise)
    ]
    print("\n".join(broken) or "all promises kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
