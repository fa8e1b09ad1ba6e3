"""The code in the user guide is run, page by page; what its commands name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minidiff import backend as registry

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


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")]
    assert pages
    assert not [page for page in pages if page not in navigation]
