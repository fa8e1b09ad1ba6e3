"""`UNet2DModel` here and in diffusers, on the same weights.

python -m tests.interop.unet_2d_comparison            prints how far apart they are, configuration by configuration
python -m tests.interop.unet_2d_comparison --write    writes diffusers' answers to tests/references/unet_2d.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch

from minidiff import ops
from minidiff.autodiff import backward, record
from minidiff.models import UNet2DModel
from minidiff.models.pretrained import Unset
from minidiff.random import Generator
from tests.unet_2d_configurations import CASES, REFERENCES, Case, filled, inputs, summary, thinned

Weights = dict[str, np.ndarray[Any, Any]]

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()


def theirs(config: Mapping[str, Any], *, seed: int = 0) -> Any:
    """Diffusers' network; nothing in it is at its initial 1 or 0."""
    torch.manual_seed(seed)
    model = diffusers.UNet2DModel(**config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
    return model


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """The names and shapes of diffusers' parameters."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def weights_of(model: Any) -> Weights:
    """Diffusers' weights, not copied."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def loaded(model: Any, weights: Weights) -> Any:
    """`model`, of diffusers, with these weights."""
    model.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()})
    return model


def sharing(mine: UNet2DModel, model: Any) -> UNet2DModel:
    """`mine` on the very arrays of diffusers' network, which takes half the memory."""
    assert {name: p.shape for name, p in mine.parameters().items()} == shapes_of(model)
    for name, array in weights_of(model).items():
        mine.parameters()[name].data = array
    return mine


def their_answer(model: Any, given: Mapping[str, Any], *, dtype: Any = torch.float32) -> Any:
    """The output, still with its history."""
    labels = given.get("labels")
    if labels is not None:
        labels = torch.from_numpy(labels)
        labels = labels.to(dtype) if labels.is_floating_point() else labels
    t = torch.from_numpy(given["t"])
    return model(torch.from_numpy(given["x"]).to(dtype), t, labels).sample


def their_gradients(model: Any, y: Any) -> Weights:
    """Of sum(y * direction), zeros for what is not trained."""
    y.backward(torch.from_numpy(direction(tuple(y.shape))).to(y.dtype))
    return {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy()
        for name, p in model.named_parameters()
    }


def our_answer(model: UNet2DModel, given: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The output."""
    return np.asarray(model(given["x"], given["t"], given.get("labels")))


def our_gradients(model: UNet2DModel, given: Mapping[str, Any]) -> Weights:
    """Of sum(y * direction)."""
    with record(model):
        y = model(given["x"], given["t"], given.get("labels"))
        loss = ops.sum(y * direction(y.shape))
    return dict(backward(loss))


def direction(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The gradient that the output is given."""
    return np.asarray(Generator(6).normal(shape))


def distance(a: Any, b: Any) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(np.subtract(a, b, dtype=np.float64)) / np.linalg.norm(b))


def distances(ours: Weights, expected: Weights) -> dict[str, float]:
    """|a - b| / |b| for each parameter.

    The bias of keys shifts all scores of a query alike, which softmax does not see: its gradient is nothing but
    rounding, and is measured by that of the keys' weights.
    """
    found = {}
    for name, b in expected.items():
        size = np.linalg.norm(expected[name.replace("to_k.bias", "to_k.weight")])
        found[name] = (
            float(np.linalg.norm(ours[name] - b) / size) if size else float(np.abs(ours[name]).max())
        )
    return found


def compare(case: Case, *, small: bool, side: tuple[int, int] | None = None) -> dict[str, float]:
    """Parameters, and the distances of outputs and of gradients, the worst of all parameters."""
    config = case.small_config if small else case.config
    images = 3 if small else 1
    model = theirs(config)
    given = inputs(config, images, side or case.side)
    mine = sharing(UNet2DModel(**config, rng=Unset("cpu", numbers=1 << 40, draws=1 << 20)), model)
    result = {"parameters": float(mine.num_parameters())}
    with torch.set_grad_enabled(small or not case.huge):
        y = their_answer(model, given)
    result["output"] = distance(our_answer(mine, given), y.detach().numpy())
    if small or not case.huge:
        result["gradients"] = max(distances(our_gradients(mine, given), their_gradients(model, y)).values())
    return result


def write_references() -> None:
    """Outputs and summaries of gradients, of small networks in float64."""
    arrays = {}
    for name, case in CASES.items():
        config = case.small_config
        model = diffusers.UNet2DModel(**config).eval()
        loaded(model, filled(shapes_of(model))).double()
        if config.get("class_embed_type") == "timestep":  # the one place where diffusers forgets to cast
            model.class_embedding.register_forward_pre_hook(lambda _layer, given: (given[0].double(),))
        y = their_answer(model, inputs(config, 2, case.side), dtype=torch.float64)
        arrays[f"{name}: output"] = thinned(y.detach().numpy()).astype(np.float32)
        arrays[f"{name}: gradients"] = summary(their_gradients(model, y))
    REFERENCES.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCES, **arrays)


def main() -> None:
    """Print the table, or write the references."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write tests/references/unet_2d.npz")
    if parser.parse_args().write:
        write_references()
        return
    print("| configuration | parameters | output | gradients | small: parameters | output | gradients |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, case in CASES.items():
        rows = [compare(case, small=False) if case.small else {}, compare(case, small=True)]
        cells = [
            f"{row[key]:{style}}" if key in row else "-"
            for row in rows
            for key, style in (("parameters", ",.0f"), ("output", ".0e"), ("gradients", ".0e"))
        ]
        print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
