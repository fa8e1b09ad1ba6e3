"""The container images, as far as can be told without building them; `.ci/check_images` builds and runs them."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDS = {
    "build": PROJECT["build-system"]["requires"],
    "cpu": PROJECT["project"]["dependencies"],
    "cuda": PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cuda12"],
}
IMAGES = ("Dockerfile", "Dockerfile.cpu")


def pins(lock: str) -> dict[str, tuple[Version, list[str]]]:
    """What a lock file installs: {name: (version, its hashes)}."""
    found: dict[str, tuple[Version, list[str]]] = {}
    text = (DOCKER / f"requirements-{lock}.lock").read_text()
    for entry in re.findall(r"^\S+==(?:.*\\\n)*.*", text, re.MULTILINE):
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
        found[canonicalize_name(name)] = (
            Version(version),
            re.findall(r"--hash=sha256:([0-9a-f]{64})", entry),
        )
    return found


def instructions(image: str) -> list[tuple[str, str]]:
    """[("FROM", "debian:trixie-slim AS pip"), ...], continued lines joined and comments left out."""
    lines = [line for line in (DOCKER / image).read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("lock", NEEDS)
def test_a_lock_file_holds_what_the_project_needs(lock: str) -> None:
    pinned = pins(lock)
    for need in map(Requirement, NEEDS[lock]):
        version, _ = pinned[canonicalize_name(need.name)]
        assert need.specifier.contains(version), f"{need} is pinned to {version}: docker/lock pins it anew"


@pytest.mark.parametrize("lock", NEEDS)
def test_every_pin_has_hashes_and_no_place(lock: str) -> None:
    for name, (_, hashes) in pins(lock).items():
        assert hashes, name
    text = (DOCKER / f"requirements-{lock}.lock").read_text()
    assert not re.search(r"://|index-url|find-links", text)


def test_both_images_pin_the_same_versions() -> None:
    cpu, cuda = pins("cpu"), pins("cuda")
    assert cpu.items() <= cuda.items()


@pytest.mark.parametrize("image", IMAGES)
def test_copied_files_exist_and_reach_the_build(image: str) -> None:
    reach = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        rest.split()[:-1] for name, rest in instructions(image) if name == "COPY" and "--from" not in rest
    ]
    sources = [source for line in copied for source in line]
    assert "docker/entrypoint" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in reach, f".dockerignore keeps {source} out"


@pytest.mark.parametrize("image", IMAGES)
def test_the_labels_say_what_the_project_says(image: str) -> None:
    labels = dict(
        pair.split("=", 1)
        for name, rest in instructions(image)
        if name == "LABEL"
        for pair in shlex.split(rest)
    )
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == PROJECT["project"]["version"]
    assert labels[f"{prefix}licenses"] == PROJECT["project"]["license"]
    last = [rest for name, rest in instructions(image) if name == "FROM"][-1]
    assert labels[f"{prefix}base.name"] == last


def test_the_images_differ_only_in_what_cuda_needs() -> None:
    cuda, cpu = (instructions(image) for image in IMAGES)
    words = r"cuda|cup|strip|binutils|NVIDIA|cache|CuPy"
    assert all(re.search(words, rest) for _, rest in set(cuda) - set(cpu))
    assert [name for name, _ in cpu] == [
        name for name, rest in cuda if "NVIDIA" not in rest and "strip" not in rest
    ]


@pytest.fixture
def entrypoint(tmp_path: Path) -> list[str]:
    """The command of a container, its files laid out as in the image."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(DOCKER / "entrypoint", tmp_path)
    (tmp_path / "work").mkdir()
    return [str(tmp_path / "entrypoint")]


def options(entrypoint: list[str]) -> dict[str, object]:
    """Of subprocess: in the container's working folder, with this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"cwd": Path(entrypoint[0]).parent / "work", "env": {**os.environ, "PATH": path}, "text": True}


def run(entrypoint: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*entrypoint, *arguments], capture_output=True, check=False, **options(entrypoint)
    )


def summary(script: Path) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(ast.parse(script.read_text())) or "").partition("\n")[0]


def test_help_lists_every_example(entrypoint: list[str]) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        done = run(entrypoint, *arguments)
        assert done.returncode == 0
        assert re.search(r"^  doctor +\w", done.stdout, re.MULTILINE)
        listed = dict(re.findall(r"^  (\S+\.py) +(\S.*)$", done.stdout, re.MULTILINE))
        assert listed == {p.name: summary(p) for p in (ROOT / "examples").glob("*.py")}


def test_what_a_container_runs(entrypoint: list[str]) -> None:
    done = run(entrypoint, "xor.py", "--help")
    assert done.returncode == 0
    assert "Learn XOR" in done.stdout
    done = run(entrypoint, "python", "-c", "print('any program')")
    assert (done.returncode, done.stdout) == (0, "any program\n"), done.stderr
    assert run(entrypoint, "python", "-c", "import sys; sys.exit(7)").returncode == 7
    done = run(entrypoint, "nothing.py")
    assert done.returncode == 2
    assert "no script nothing.py in" in done.stderr
    own = Path(entrypoint[0]).parent / "work" / "xor.py"
    own.write_text("import sys; print('my own', sys.argv[1:])")
    assert run(entrypoint, "xor.py", "a b", "c").stdout == "my own ['a b', 'c']\n"


def test_what_is_no_program_is_a_command_of_minidiff(entrypoint: list[str]) -> None:
    done = run(entrypoint, "doctor", "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert run(entrypoint, "docter").returncode == 2


def test_an_interrupt_reaches_training(entrypoint: list[str]) -> None:
    command = [*entrypoint, "train_digits.py", "--device", "cpu", "--steps", "100000", "--channels", "2"]
    metrics = Path(entrypoint[0]).parent / "work" / "outputs" / "digits" / "metrics.jsonl"
    process = subprocess.Popen(  # type: ignore[call-overload]
        command,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell may have it ignored
        **options(entrypoint),
    )
    try:
        deadline = time.monotonic() + 30
        while not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert metrics.exists()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "the same command goes on from here" in output
