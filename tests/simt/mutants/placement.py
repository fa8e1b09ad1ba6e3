"""Bugs planted in the choice among several GPUs."""

from __future__ import annotations

TESTS = ["tests/test_cupy_engine.py"]

FILE, BACKEND = "minidiff_cupy/placement.py", "minidiff_cupy/__init__.py"

MUTANTS = [
    (FILE, "number if first is None else first.device.id", "number"),
    (FILE, "number if first is None else first.device.id", "None if first is None else first.device.id"),
    (FILE, "        with device:\n            result =", "        if True:\n            result ="),
    (FILE, "placed(cupy, device.id, x) if callable(x) else x for", "x for"),
    (FILE, "placed(cupy, device.id, x) if callable(x)", "placed(cupy, number, x) if callable(x)"),
    (FILE, "elif isinstance(x, tuple | list | dict):", "elif isinstance(x, tuple):"),
    (BACKEND, "if count > 1 else", "if count > 2 else"),
    (BACKEND, "compile=lambda fn: place(compile(fn)),", ""),
    (BACKEND, "compile=lambda fn: place(compile(fn)),", "compile=compile,"),
    (BACKEND, "lambda: explained(cupy)", "lambda: explained(None)"),
    (BACKEND, "cupy.cuda.Device(number).use()", ""),
    (BACKEND, "from_numpy=place(cupy.asarray)", "from_numpy=cupy.asarray"),
    (BACKEND, "place(rule) for key, rule", "rule for key, rule"),
]
