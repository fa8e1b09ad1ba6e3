"""What doctor and the CUDA backend find on this machine, with nothing simulated but a library that is absent."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, ops, value_and_grad
from minidiff.backend import BackendUnavailable, get_backend
from minidiff.doctor import examine
from minidiff.doctor.findings import ask
from minidiff.models import UNet
from minidiff_cupy import diagnosis
from tests import simt
from tests.simt import namespace


def test_the_version_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of its library, as CuPy may not be there."""

    class Driver:
        @staticmethod
        def cuDriverGetVersion(pointer: Any) -> int:
            pointer._obj.value = 12040
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver)
    assert diagnosis.driver_version() == 12040

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert diagnosis.driver_version() == 0


def test_nvrtc_compiles_without_a_driver() -> None:
    pytest.importorskip("cupy")
    finding = ask({"compiling": diagnosis.diagnose()["compiling"]})[0]
    assert finding.state == "ok", finding
    assert finding.text.startswith("sums.cu for sm_80 in ")


def test_a_network_needs_no_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extras leave it out: on CUDA, a training step and its kernels call no matrix product of the library."""

    def product(*arguments: Any) -> Any:
        raise ImportError("libcublasLt.so.12")

    try:
        backend = simt.backend()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    for name in ("matmul", "vecdot", "tensordot"):
        monkeypatch.setattr(namespace, name, product, raising=False)
    monkeypatch.setattr(simt.SimtArray, "__matmul__", product)
    rng = Generator(0, device="simt")
    network = UNet(1, 8, 1, num_classes=4, attention=True, context_dim=8, heads=2, rng=rng)
    host = np.random.default_rng(0)
    x, context = (backend.from_numpy(host.random(shape, np.float32)) for shape in ((2, 1, 8, 8), (2, 5, 8)))
    times, labels = (backend.from_numpy(np.asarray(numbers)) for numbers in ([3, 9], [0, 4]))
    loss, grads = value_and_grad(
        lambda: ops.mse_loss(network(x, times, context, labels=labels), x), network
    )()
    assert np.isfinite(float(loss))
    assert len(grads) == len(network.parameters())
    with pytest.raises(ImportError, match="libcublasLt"):
        ops.matmul(x, x)


def test_this_machine() -> None:
    """Whatever CUDA lacks here, doctor agrees with the registry."""
    try:
        get_backend("cuda")
    except BackendUnavailable:
        assert not examine("cuda").works("cuda")
    else:
        assert examine("cuda").works("cuda")
