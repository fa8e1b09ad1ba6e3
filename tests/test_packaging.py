"""What pyproject.toml promises, and what `.ci/check_package` would complain about."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from minidiff_cupy.diagnosis import OLDEST_CUPY

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pillow": "PIL"}  # others are imported under their own names
OPTIONAL = {"cupy", "cuda", "torch", "array_api_strict"}  # extras, and what users bring
OURS = {"minidiff", "minidiff_numpy", "minidiff_cupy"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", r)[0] for r in requirements}


def imported() -> set[str]:
    """The top-level names that the packages of the wheel import, anywhere."""
    found = set()
    for path in [*(ROOT / "minidiff").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_what_is_imported_is_what_is_required() -> None:
    required = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names(PROJECT["dependencies"])}
    assert imported() - OPTIONAL - OURS == required


def test_each_requirement_has_an_oldest_version() -> None:
    """Which `.ci/check_package` installs and tries."""
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", r) for r in PROJECT["dependencies"])


@pytest.mark.parametrize("cuda", [12, 13])
def test_the_extras_for_cuda_are_no_larger_than_they_need_to_be(cuda: int) -> None:
    assert PROJECT["optional-dependencies"][f"cuda{cuda}"] == [
        f"cupy-cuda{cuda}x>={OLDEST_CUPY}",
        f"cuda-toolkit[cudart,nvrtc]=={cuda}.*",
    ]


def test_the_oldest_python_is_the_one_that_is_said() -> None:
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{11 + i}" for i in range(len(versions))]


def test_the_command_is_installed() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="minidiff")
    assert script.value == PROJECT["scripts"]["minidiff"]
    assert callable(script.load())


def test_every_licence_is_named_and_in_the_wheel() -> None:
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in PROJECT["license-files"]]
    assert texts[0].startswith("MIT License")
    assert "CC BY 4.0" in texts[1]


# --- .ci/check_package -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def check() -> Any:
    loader = SourceFileLoader("check_package", str(ROOT / ".ci/check_package"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_contents_must_be_the_same(check: Any) -> None:
    check.same("wheel", {"a", "b"}, {"a", "b"})
    with pytest.raises(SystemExit, match=r"wheel:\nb is missing\nc does not belong there"):
        check.same("wheel", {"a", "c"}, {"a", "b"})


def test_a_command_that_fails_says_what_it_printed(check: Any) -> None:
    with pytest.raises(SystemExit, match=r"(?s)said\n.*exit code 3"):
        check.run(sys.executable, "-c", "import sys; print('said'); sys.exit(3)")


def test_the_oldest_versions(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "requirements", lambda wheel: ["numpy>=2.0", "tqdm>=4.66"])
    assert check.oldest(Path("x.whl")) == ["numpy==2.0.*", "tqdm==4.66.*"]
