"""The code in the user guide is run, page by page; what its commands name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minidiff import backend as registry
from minidiff import ops

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block stands for itself but for what the page has registered, as in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_by_type", {})
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})


def test_there_is_code() -> None:
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 10


COMMANDS = sorted({line for page in PAGES for text in blocks(page, "console") for line in text.splitlines()})


@pytest.mark.parametrize("line", [line for line in COMMANDS if "examples/" in line])
def test_commands(line: str) -> None:
    """Scripts and options that the guide types are there."""
    script = re.search(r"examples/\w+\.py", line)
    assert script is not None
    sources = (ROOT / script[0]).read_text(encoding="utf-8")
    sources += (ROOT / "minidiff/cli.py").read_text(encoding="utf-8")
    for option in re.findall(r"--[a-z][a-z_-]+", line):
        assert f'"{option}"' in sources, f"{script[0]} has no {option}"


FILES = [*PAGES, *sorted(ROOT.glob("*.md")), ROOT / "docker/README.md"]
FOLDERS = ("minidiff", "backends", "tests", "examples", "benchmarks", "docs", "docker", r"\.ci")


def prose(file: Path) -> str:
    """Without its blocks of code."""
    return re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(file: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(file), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links(file: Path) -> None:
    """They lead to files and headings that are there; those of other sites are not tried."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = file.parent / name if name else file
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_are_named(file: Path) -> None:
    """`docker/lock` is there."""
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", prose(file)):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")]
    assert pages
    assert not [page for page in pages if f": {page}\n" not in navigation]


def test_the_reference_names_functions_that_have_no_source_of_their_own() -> None:
    """mkdocstrings reads the source; these are made in loops."""
    made = {"create", "function"}
    codes = {name: getattr(getattr(ops, name), "__code__", None) for name in ops.__all__}
    names = [name for name, code in codes.items() if code is not None and code.co_name in made]
    assert len(names) > 30
    page = (ROOT / "docs/reference/ops.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"`{name}`" not in page]
