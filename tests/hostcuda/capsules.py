"""Functions in Python in the place of C functions that CuPy's compiled modules take from each other.

A module made by Cython offers its C functions in a dict, `__pyx_capi__`: for each name a capsule, which holds the
function's address, and whose own name is the function's type in C. Another module looks them up when it is imported,
compares the types, and keeps the addresses. So a capsule with the same name around another address is all that it
takes, if it is there before the others are imported.

Callbacks of ctypes would not do as these functions: they print an exception and return, where CuPy's callers expect
to find it. So g++ makes them, from one template.
"""

from __future__ import annotations

import ctypes
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.simt.emulator import build

__all__ = ["replace"]

HEADER = Path(__file__).parent / "capsules.hpp"
FLAGS = [f"-I{sysconfig.get_paths()['include']}"]

_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

_kept: list[Any] = []  # capsules hold addresses only


def replace(module: ModuleType, functions: dict[str, Callable[..., Any]]) -> None:
    """Let those who import `module` from now on, in C and in Python, find `functions` under their names there.

    A function gets the arguments that the C function has, less Cython's own. Its exceptions reach the caller.
    """
    types = {name: _name_of(module.__pyx_capi__[name]) for name in functions}
    table = ",\n".join(_address(number, type_.decode()) for number, type_ in enumerate(types.values()))
    source = (
        f'#include "{HEADER.name}"\nPyObject* callees[{len(types)}];\n'
        f'extern "C" {{ void* functions[] = {{\n{table}\n}}; }}\n'
    )
    files = {"main.cpp": source, HEADER.name: HEADER.read_text(encoding="utf-8")}
    library = build(files, "main.cpp", FLAGS)
    callees = (ctypes.py_object * len(types)).in_dll(library, "callees")
    addresses = (ctypes.c_void_p * len(types)).in_dll(library, "functions")
    _kept.extend((callees, types))
    for i, (name, type_) in enumerate(types.items()):
        callees[i] = functions[name]
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(functions[name]))  # for what CuPy frees while Python ends
        module.__pyx_capi__[name] = _capsule(addresses[i], type_, None)
        setattr(module, name, functions[name])


def _address(number: int, type_: str) -> str:
    """The instance for a type such as "intptr_t (size_t, int __pyx_skip_dispatch)", in C++."""
    found = re.fullmatch(r"(.*?)\s*\((.*)\)", type_)
    assert found, type_
    result, given = found.groups()
    parameters = [] if given == "void" else given.split(", ")
    count = sum("__pyx_" not in parameter for parameter in parameters)
    plain = ["void*" if p.startswith("struct") else re.sub(r" __pyx_\w+$", "", p) for p in parameters]
    return f"reinterpret_cast<void*>(&call<{', '.join([str(number), str(count), result, *plain])}>)"
