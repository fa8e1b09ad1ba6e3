"""What the README shows is run, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_code(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_there_is_code() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("script", sorted(set(re.findall(r"examples/\w+\.py", README))))
def test_scripts(script: str) -> None:
    assert (ROOT / script).exists()


OURS = re.sub(r"docker (build|run) .*?(minidiff\S*|$)", "", README, flags=re.MULTILINE)  # not Docker's


@pytest.mark.parametrize("option", sorted({*re.findall(r"--[a-z][a-z-]+", OURS)} - {"--help"}))
def test_options(option: str) -> None:
    sources = [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py"), ROOT / "minidiff" / "cli.py"]
    sources += ROOT.glob("minidiff/testing/*.py")
    assert any(f'"{option}"' in path.read_text(encoding="utf-8") for path in sources)


def test_conformance_table_has_every_function() -> None:
    from minidiff.testing import CASES

    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", README, flags=re.MULTILINE)
    counts: dict[str, int] = {}
    for case in CASES:
        counts[case.op] = counts.get(case.op, 0) + 1
    assert {name: int(count) for name, count in rows} == counts, (
        "run `python -m minidiff.testing` and paste its table"
    )
