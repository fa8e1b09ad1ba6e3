"""Bugs planted in what captures functions as CUDA graphs."""

from __future__ import annotations

TESTS = ["tests/test_cupy_graphs.py"]

FILE = "minidiff_cupy/graphs.py"

MUTANTS = [
    # what decides the launches
    (FILE, "key = _described(args, self._array_type), is_exact()", "key = _described(args, self._array_type)"),
    (FILE, "tuple(x.shape), x.dtype.name, memory_order(x)", "tuple(x.shape), x.dtype.name"),
    (FILE, "tuple(x.shape), x.dtype.name, memory_order(x)", "tuple(x.shape), memory_order(x)"),
    (FILE, "return type(x), x", "return x"),
    (FILE, "return dict, *((key, _described(child, array_type))", "return dict, *((_described(child, array_type))"),
    (FILE, "if engine.capturing() or key not in self._seen:", "if key not in self._seen:"),
    (FILE, "if engine.capturing() or key not in self._seen:", "if engine.capturing():"),
    (FILE, "if key not in self._graphs:", "if True:"),
    # memory
    (FILE, "own = _replaced(args, array_type, lambda x: empty_alike(xp, x, x.dtype))", "own = args"),
    (FILE, "        copy_all(self._xp, zip(self._inputs, arrays, strict=True))\n", ""),
    (FILE, "        copy_all(self._xp, copies)\n", ""),
    (FILE, "        return result\n\n\n# --- nested", "        return self._result\n\n\n# --- nested"),
    (FILE, "self._cupy.cuda.using_allocator(self._pool.malloc)", "suppress()"),
    (FILE, "        self._cupy.get_default_memory_pool().free_all_blocks()", "        pass"),
    (FILE, "if error.status != _NO_MEMORY:", "if error.status == _NO_MEMORY:"),
    # what cannot be captured
    (FILE, "        with engine.capture():\n", "        if True:\n"),
    (FILE, "elif result is not None and not isinstance(result, array_type):", "elif False:"),
    (FILE, "with suppress(self._cupy.cuda.runtime.CUDARuntimeError):", "if True:"),
    (FILE, "    self._stream.end_capture()\n                raise", "    pass\n                raise"),
    (FILE, "        with self._guard():\n", "        if True:\n"),
]  # fmt: skip
