"""What works on this machine, what does not, and what mends it: `python -m minidiff doctor`.

Everything asked is a function without arguments that says in a few words what is there, warns with what mends it where
something works badly, and raises BackendUnavailable where it does not work. `machine` asks about the computer, each
backend's package about its device (`minidiff.backend.diagnosis`), and `kernels` whether that computes right.
"""

from minidiff.doctor.command import main
from minidiff.doctor.report import Report, examine

__all__ = ["Report", "examine", "main"]
