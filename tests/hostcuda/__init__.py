"""CUDA's runtime over host memory, for the real CuPy: `python -m tests.hostcuda`, with pytest's arguments.

What CuPy calls of CUDA's runtime and driver is replaced by functions over host memory (`capsules.py` says how), so that
minidiff's backend "cuda" works without a GPU: with CuPy's own arrays, memory pools, streams, graphs and packing of
arguments. Our kernels run in the emulator of `tests/simt`, CuPy's own as g++ compiles them. A GPU that is there is
left alone.

- `memory.py`, `transfers.py`: blocks, and copies;
- `streams.py`: queues that run as late as CUDA may run them, events, and graphs;
- `launches.py`, `kernels.py`: modules, and what is in them;
- `plugin.py`: all that for pytest, and which tests run;
- `check_*.py`: tests of what only shows here.

Not tested, because something else stands in its place: products of matrices and sorting by NVIDIA's libraries (NumPy
does them), reductions by CUB (CuPy's plain ones run), NVRTC (`tests.simt.nvrtc` compiles our kernels with it, nothing
compiles CuPy's), denormal numbers, which CuPy's own kernels flush to zero, several GPUs, and all that is about time.
"""
