"""The arrows of ARCHITECTURE.md: a file may import only what stands left of it."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "minidiff").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))

LAYERS = ["backend", "modes", "philox", "random", "autodiff", "ops", "nn", "models", "diffusion", "optim"]
MAY = {name: set(LAYERS[:rank]) for rank, name in enumerate(LAYERS)} | {
    "files": set(),
    "weights": {"backend", "files"},
    "images": {"backend", "files"},
    "data": {"backend", "files"},
    "checkpoints": {"backend", "random", "files", "weights", "nn", "models", "diffusion"},
    "loss_and_gradients": {"backend", "random", "autodiff"},
    "pipelines": {*LAYERS, "files", "weights", "images"},
    "training": {*LAYERS, "loss_and_gradients", "files", "images", "data", "checkpoints"},
    "cli": {*LAYERS, "files", "images", "data", "checkpoints", "training", "pipelines"},
    "convert": {*LAYERS, "files", "weights", "checkpoints"},
    "doctor": {*LAYERS, "files"},
    "__main__": {*LAYERS, "files", "weights", "checkpoints", "pipelines", "cli", "convert", "doctor"},
    "testing": set(LAYERS),
    "": set(LAYERS),  # the package itself
}
for reader in ("models", "diffusion"):  # pretrained networks and schedulers are folders
    MAY[reader] |= {"files", "weights"}
UPWARD = {("minidiff/autodiff/tensor.py", "ops")}  # Tensor.__array_namespace__
SLOW = {"PIL", "einops", "importlib.metadata", "ml_dtypes", "safetensors", "scipy", "sklearn", "tqdm"}
OPTIONAL = {"cupy", "torch", "array_api_strict", "minidiff_numpy", "minidiff_cupy"}


def name_of(path: Path) -> str:
    """The first name below `minidiff`: "ops" for minidiff/ops/linalg.py, "" for minidiff/__init__.py."""
    first = path.relative_to(ROOT / "minidiff").parts[0]
    return first.removesuffix(".py").removesuffix("__init__")


def imports(path: Path, *, top: bool = False) -> set[str]:
    """Dotted names that a file imports, anywhere, or (`top`) when it is itself imported."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if top and getattr(node, "col_offset", 0) > 0:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def belongs(name: str, packages: set[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def upward(path: Path, may: dict[str, set[str]]) -> set[str]:
    """Parts of minidiff that a file imports and may not."""
    here = name_of(path)
    parts = {name.split(".")[1] for name in imports(path) if name.startswith("minidiff.")}
    allowed = may[here] | {here} | {part for file, part in UPWARD if ROOT / file == path}
    return parts - allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_left_of_it(path: Path) -> None:
    assert name_of(path) in MAY, f"say in this file what minidiff/{name_of(path)} may import"
    assert not upward(path, MAY)


def test_no_public_name_is_also_that_of_a_file() -> None:
    """Importing the file would put it in the name's place."""
    import minidiff

    files = {p.stem for p in (ROOT / "minidiff").iterdir()}
    assert not [
        n for n in minidiff.__all__ if n in files and not isinstance(getattr(minidiff, n), ModuleType)
    ]


def test_there_is_exactly_one_import_that_points_up() -> None:
    tree = ast.parse((ROOT / "minidiff/autodiff/tensor.py").read_text())
    holders = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module == "minidiff"
    ]
    assert holders == ["__array_namespace__"]


def test_the_arrows_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAY, "ops", {"backend"})
    assert upward(ROOT / "minidiff/ops/linalg.py", MAY) == {"autodiff"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_no_backend_and_imports_nothing_slow(path: Path) -> None:
    known = OPTIONAL if path != ROOT / "minidiff/testing/libraries.py" else set()
    assert not {name for name in imports(path) if belongs(name, known)}
    assert not {name for name in imports(path, top=True) if belongs(name, SLOW | OPTIONAL)}


@pytest.mark.parametrize("path", BACKENDS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_backend_knows_only_the_interface(path: Path) -> None:
    own = path.relative_to(ROOT / "backends").parts[0]
    others = {"minidiff", *(p.name for p in (ROOT / "backends").iterdir())} - {own}
    ours = {name for name in imports(path) if belongs(name, others)}
    assert not {name for name in ours if not belongs(name, {"minidiff.backend", "minidiff.modes"})}


def test_the_source_root_is_not_a_package() -> None:
    assert not (ROOT / "backends/__init__.py").exists()
