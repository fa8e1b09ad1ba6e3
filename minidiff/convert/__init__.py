"""What a checkpoint is, and how to write it as a folder of diffusers: `python -m minidiff convert`."""

from minidiff.convert.command import main
from minidiff.convert.inspect import Kind, kind_of

__all__ = ["Kind", "kind_of", "main"]
