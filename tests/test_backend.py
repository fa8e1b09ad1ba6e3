"""The registry: which device names exist, what happens where something is missing, whose arrays are whose."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from minidiff import (
    Backend,
    BackendUnavailable,
    Parameter,
    available_backends,
    backend_of,
    get_backend,
    ops,
    register_backend,
    value_and_grad,
)
from minidiff import backend as registry


@pytest.fixture(autouse=True)
def new_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts without a registered backend, and leaves none."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_by_type", {})


def offer(monkeypatch: pytest.MonkeyPatch, *offers: tuple[str, str]) -> None:
    """Let installed packages offer these (device, "module:function") pairs."""
    found = [EntryPoint(name, value, "minidiff.backends") for name, value in offers]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)


class OwnArray(np.ndarray[Any, Any]):
    """An array class of a third party, which happens to be a subclass of NumPy's."""


def own_backend(device: str = "own", **options: Any) -> Backend:
    return Backend(
        device=device,
        xp=get_backend("cpu").xp,
        array_type=OwnArray,
        from_numpy=lambda host: np.array(host).view(OwnArray),
        to_numpy=lambda x: np.array(x),
        **options,
    )


# --- names -----------------------------------------------------------------------------------------------


def test_the_cpu_is_there() -> None:
    backend = get_backend("cpu")
    assert backend is get_backend("cpu")
    assert get_backend(backend) is backend
    assert backend_of(np.ones(1)) is backend
    assert repr(backend).startswith("Backend('cpu', array_api_compat.numpy, ")
    backend.synchronize()


def test_available_backends_are_offers_and_registrations() -> None:
    assert available_backends() == ["cpu", "cuda"]
    register_backend(own_backend())
    assert available_backends() == ["cpu", "cuda", "own"]


def test_an_unknown_device_lists_what_is_offered() -> None:
    with pytest.raises(ValueError, match=r"unknown device 'gpu'; installed backends offer \['cpu', 'cuda'\]"):
        get_backend("gpu")


@pytest.mark.parametrize("device", ["cpu:1", "cpu:", "cpu:x"])
def test_the_cpu_has_no_number(device: str) -> None:
    with pytest.raises(ValueError, match=f"unknown device '{device}': 'cpu' devices are named 'cpu'"):
        get_backend(device)


def test_two_offers_for_one_device_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("tpu", "first:backend"), ("tpu", "second:backend"))
    with pytest.raises(ValueError, match="'tpu' is offered twice, by first:backend and by second:backend"):
        get_backend("tpu")


def test_one_offer_that_is_found_twice_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("cpu", "minidiff_numpy:backend"), ("cpu", "minidiff_numpy:backend"))
    assert get_backend("cpu").device == "cpu"


def test_an_offer_must_keep_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("tpu", "minidiff_numpy:backend"))
    with pytest.raises(ValueError, match="minidiff_numpy:backend offers device 'tpu' but made Backend"):
        get_backend("tpu")


# --- third parties ---------------------------------------------------------------------------------------


def test_a_backend_of_a_third_party() -> None:
    def exp(xp: Any, x: Any) -> Any:
        return xp.full_like(x, 7.0), lambda dy: (dy * 5,)

    backend = own_backend(kernels={"exp": exp})
    register_backend(backend)
    x = backend.from_numpy(np.ones(2))
    assert get_backend("own") is backend
    assert backend_of(x) is backend
    assert backend_of(np.ones(1)).device == "cpu"
    assert backend_of(backend.from_numpy(np.ones(1))) is backend
    value, grads = value_and_grad(lambda: ops.sum(ops.exp(p)), {"p": (p := Parameter(x))})()
    assert float(value) == 14
    np.testing.assert_array_equal(grads["p"], [5, 5])


def test_a_kernel_may_decline() -> None:
    register_backend(own_backend(kernels={"exp": lambda xp, x: NotImplemented}))
    x = np.zeros(2).view(OwnArray)
    np.testing.assert_array_equal(ops.exp(x), [1, 1])


def test_a_kernel_gets_every_option_and_checked_arguments() -> None:
    seen: list[Any] = []

    def group_norm(xp: Any, *arrays: Any, **options: Any) -> Any:
        seen.append((len(arrays), arrays[1:], options))
        return NotImplemented

    register_backend(own_backend(kernels={"group_norm": group_norm}))
    x = np.ones((1, 4, 2, 2)).view(OwnArray)
    ops.group_norm(x, groups=2)
    assert seen == [(3, (None, None), {"groups": 2, "eps": 1e-5, "activation": None})]
    with pytest.raises(ValueError, match="3 groups do not divide 4 channels"):
        ops.group_norm(x, groups=3)
    assert len(seen) == 1


def test_a_registration_comes_before_an_offer() -> None:
    mine = own_backend("cpu")
    register_backend(mine)
    assert get_backend("cpu") is mine


def test_numbered_devices() -> None:
    register_backend(own_backend(numbered=lambda i: own_backend(f"own:{i}")))
    assert get_backend("own:3").device == "own:3"
    assert get_backend("own:3") is get_backend("own:3")
    with pytest.raises(
        ValueError, match=r"unknown device 'own:x': 'own' devices are named 'own' or 'own:0', \.\.\."
    ):
        get_backend("own:x")


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_a_library_without_a_backend_works(library: str) -> None:
    xp = pytest.importorskip(library)
    x = xp.asarray([1.0, 2.0])
    backend = backend_of(x)
    assert (backend.device, backend.kernels) == (library, {})
    assert backend_of(x) is backend
    value, grads = value_and_grad(lambda: ops.sum(ops.square(p)), {"p": (p := Parameter(x))})()
    assert float(value) == 5
    assert type(grads["p"]) is type(x)
    np.testing.assert_array_equal(backend.to_numpy(grads["p"]), [2, 4])
    np.testing.assert_array_equal(backend.to_numpy(backend.from_numpy(np.arange(3))), [0, 1, 2])


@pytest.mark.parametrize("thing", [[1.0], 1.0, None, "array"])
def test_what_is_not_an_array_has_no_backend(thing: Any) -> None:
    with pytest.raises(
        TypeError, match=f"expected an array of an Array API library, got {type(thing).__name__}"
    ):
        backend_of(thing)


def test_an_unavailable_device_stays_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable):
        get_backend("cuda")
    assert "cuda" in available_backends()


# --- importing -------------------------------------------------------------------------------------------


def in_a_new_python(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_importing_minidiff_imports_nothing_heavy() -> None:
    loaded = set(in_a_new_python("import sys, minidiff; print(*sys.modules)").split())
    heavy = {
        "PIL", "cupy", "einops", "email", "importlib.metadata", "minidiff_cupy", "minidiff_numpy", "ml_dtypes",
        "safetensors", "scipy", "torch", "tqdm",
    }  # fmt: skip
    assert "minidiff.ops" in loaded
    assert not loaded & heavy


def test_importing_minidiff_is_quick() -> None:
    """Beside NumPy, which is most of it: 150 ms where NumPy takes 60, in the best of a few turns."""

    def seconds(module: str) -> float:
        program = (
            f"import time; start = time.thread_time(); import {module}; print(time.thread_time() - start)"
        )
        return float(in_a_new_python(program))

    ours, numpys = [], []
    for _ in range(5):
        ours.append(seconds("minidiff"))
        numpys.append(seconds("numpy"))
        if min(ours) < 2.5 * min(numpys):
            return
    pytest.fail(f"`import minidiff` took {min(ours):.3f} s at best, `import numpy` {min(numpys):.3f} s")
