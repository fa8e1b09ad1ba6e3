"""Copies of many arrays."""

from __future__ import annotations

INSTANTIATIONS = [("copy.cu", "copy_rows", ())]
