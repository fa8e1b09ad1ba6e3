"""Weights on the disk: safetensors files alone or sharded, in the folders and under the names of diffusers."""

from minidiff.weights.errors import CheckpointError, shown
from minidiff.weights.header import Entry, check_floating_name
from minidiff.weights.json_file import read_json, refuse_constant
from minidiff.weights.reading import PICKLES, STEM, Weights, open_weights, refuse_pickle, variants_in
from minidiff.weights.writing import write_file, write_weights

__all__ = [
    "PICKLES",
    "STEM",
    "CheckpointError",
    "Entry",
    "Weights",
    "check_floating_name",
    "open_weights",
    "read_json",
    "refuse_constant",
    "refuse_pickle",
    "shown",
    "variants_in",
    "write_file",
    "write_weights",
]
