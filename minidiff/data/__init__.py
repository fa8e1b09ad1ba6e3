"""Pictures to learn from: real digits in the package, and readers for what people have on their disks."""

from minidiff.data.cifar import load_cifar10
from minidiff.data.dataset import DataError, Dataset
from minidiff.data.digits import load_digits
from minidiff.data.folder import load_folder
from minidiff.data.idx import load_idx
from minidiff.data.recognise import open_dataset

__all__ = ["DataError", "Dataset", "load_cifar10", "load_digits", "load_folder", "load_idx", "open_dataset"]
