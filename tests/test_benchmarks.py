"""The comparison with PyTorch: fair turns, right ratios, a PyTorch network that is minidiff's, and what is printed."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks import cpu, cpu_sections, interleave
from benchmarks.interleave import Comparison, Disagreement, Work
from benchmarks.parties import Minidiff, Party, op_calls
from benchmarks.plot import draw
from minidiff import Generator, ops
from minidiff.models import UNet
from minidiff_numpy import lanes

TINY = cpu_sections.Plan(
    threads=1,
    channels=8,
    batch=2,
    side=8,
    forward=((1, 8), (2, 12)),
    steps=(2,),
    ddim=2,
    batches=(1, 2),
    sides=(8,),
    rounds=2,
    least=1e-5,
    least_op=1e-5,
)


GROWTH = {
    name: [{name: n, "ms": {"minidiff": 3.0 * n, "PyTorch": 4.0 * n}} for n in at]
    for name, at in {"batch": (1, 2, 64), "side": (16, 128), "threads": (1,)}.items()
}


class Clock:
    """A clock that moves when work is done, and a diary of who worked and when there was a rest."""

    def __init__(self) -> None:
        self.now = 0.0
        self.diary: list[str] = []

    def rest(self, patience: float) -> None:
        self.now += 100
        self.diary.append("wait" if patience else "pause")

    def work(self, name: str, *seconds: float, result: Any = 1.0) -> Work:
        """Work that takes these seconds, one after the other and then from the start."""
        left = itertools.cycle(seconds)

        def run() -> Any:
            self.diary.append(name)
            self.now += next(left)
            return result

        return Work(run)

    def interleave(self, rounds: int = 2, **parties: Work | list[Work]) -> list[Comparison]:
        works = {name: own if isinstance(own, list) else [own] for name, own in parties.items()}
        return interleave.interleave(
            "test", works, rounds=rounds, least=1.0, clock=lambda: self.now, rest=self.rest
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_parties_take_turns(clock: Clock) -> None:
    clock.interleave(a=[clock.work("a", 1), clock.work("A", 2)], b=[clock.work("b", 1), clock.work("B", 2)])
    assert clock.diary[:4] == ["a", "b", "A", "B"]  # to compare
    assert clock.diary[4:8] == ["a", "A", "b", "B"]  # to warm up
    assert clock.diary[8:] == ["wait", "a", "A", "pause", "b", "B"] * 2


def test_a_ratio_is_that_of_a_round(clock: Clock) -> None:
    first = clock.work("first", 0.5, 0.5, 2, 3, 8, 4, 5)
    other = clock.work("other", 0.5, 0.5, 4, 4, 4, 16, 10)
    (comparison,) = clock.interleave(5, first=first, other=other)
    assert comparison.seconds == {"first": [2, 3, 8, 4, 5], "other": [4, 4, 4, 16, 10]}
    assert comparison.describe() == {
        "ms": {"first": 4000, "other": 4000},
        "ratio to": {"other": {"median": 0.5, "lower quartile": 0.5, "upper quartile": 0.75}},
        "rounds": 5,
        "max abs error": {"other": 0},
    }


def test_short_calls_are_repeated_after_one_that_does_not_count(clock: Clock) -> None:
    untimed, second = [0.75] * 3, [0.25] * 4  # to compare, to warm up and not counted; a second's worth
    short = clock.work("s", *untimed, *second)
    (comparison,) = clock.interleave(1, short=short, long=clock.work("l", 1))
    assert comparison.seconds == {"short": [0.25], "long": [1]}
    assert "".join(clock.diary) == "slsl" + "wait" + "sssss" + "pause" + "l"


def test_long_calls_get_fewer_rounds(clock: Clock) -> None:
    (comparison,) = clock.interleave(7, a=clock.work("a", 1), b=clock.work("b", interleave.LONG + 1))
    assert len(comparison.seconds["a"]) == interleave.FEW


def test_preparation_is_new_for_every_call_and_not_timed(clock: Clock) -> None:
    numbers, seen = itertools.count(), []

    def prepare() -> tuple[int, int]:
        clock.now += 30
        return next(numbers), 2

    def run(number: int, two: int) -> int:
        clock.now += two
        seen.append(number)
        return two

    (comparison,) = clock.interleave(a=Work(run, prepare), b=clock.work("b", 1, result=2))
    assert comparison.seconds["a"] == [2, 2]
    assert seen == [0, 1, 2, 3]


def test_long_preparations_shorten_a_sample(clock: Clock) -> None:
    calls = []

    def prepare() -> tuple[()]:
        clock.now += 0.75 * interleave.AT_MOST
        return ()

    def run() -> float:
        calls.append(clock.now)
        clock.now += 0.125
        return 1.0

    (comparison,) = clock.interleave(1, a=Work(run, prepare), b=clock.work("b", 1))
    assert comparison.seconds["a"] == [0.125]
    assert len(calls) == 3 + 2  # to compare, to warm up, not counted, and two


def test_results_are_compared_before_anything_is_timed(clock: Clock) -> None:
    y = np.linspace(-4, 3, 50).reshape(5, 10)
    close, far = y + 0.003, y + 0.005  # a thousandth of the greatest value is 0.004
    (comparison,) = clock.interleave(
        a=clock.work("a", 1, result=(y, [y, y])), b=clock.work("b", 1, result=[close, (y, y)])
    )
    assert comparison.errors == {"b": pytest.approx(0.003)}
    for wrong in (far, np.where(y > 2, np.nan, y)):
        clock.diary.clear()
        other = clock.work("b", 1, result=(y, [y, wrong]))
        with pytest.raises(Disagreement, match=r"a and b disagree, result\.1\.1 by up to .* reach"):
            clock.interleave(a=clock.work("a", 1, result=(y, [y, y])), b=other)
        assert clock.diary == ["a", "b"]


def test_arrays_of_a_mapping_are_measured_by_the_greatest(clock: Clock) -> None:
    ours = clock.work("a", 1, result={"weight": np.asarray([4.0]), "bias": np.asarray([0.0])})
    theirs = {"bias": np.asarray([0.003]), "weight": np.asarray([4.0])}
    clock.interleave(a=ours, b=clock.work("b", 1, result=theirs))
    with pytest.raises(Disagreement, match=r"result\.bias by up to 0\.005 where values reach 4;"):
        clock.interleave(a=ours, b=clock.work("b", 1, result={**theirs, "bias": np.asarray([0.005])}))
    del theirs["bias"]
    with pytest.raises(Disagreement, match=r"test: a gives .*bias.*, b \[\["):
        clock.interleave(a=ours, b=clock.work("b", 1, result=theirs))


def test_a_rest_lasts_while_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used, pauses = 0.0, 0.0, 0
    busy = [1.0, 1.0, 0.0]  # cores, pause by pause

    def sleep(seconds: float) -> None:
        nonlocal now, used, pauses
        now, used, pauses = now + seconds, used + seconds * busy[min(pauses, 2)], pauses + 1

    monkeypatch.setattr(interleave.time, "sleep", sleep)
    monkeypatch.setattr(interleave.time, "monotonic", lambda: now)
    monkeypatch.setattr(interleave, "_busy_seconds", lambda: used)
    interleave.rest(10.0)
    assert pauses == 3
    pauses = 0
    interleave.rest(0.0)
    assert pauses == 1
    pauses, busy[:] = 0, [1.0, 1.0, 1.0]
    interleave.rest(4 * interleave.PAUSE)
    assert pauses == 4


def test_calls_of_ops_are_seen_and_ops_left_as_they_were() -> None:
    before = dict(vars(ops))
    calls = op_calls(lambda: UNet(1, 8, 1)(np.zeros((2, 1, 8, 4), np.float32), 3))
    assert vars(ops) == before
    named = [f"{call.name} {call}" for call in calls]
    assert len(named) == 88
    assert named[0].startswith("astype 2x8")
    assert "conv2d 2x1x8x4, 8x1x3x3, padding 1" in named
    assert "conv2d 2x16x8x4, 16x16x3x3, stride 2, padding 1" in named
    assert "concat 2x32x2x1, 2x32x2x1, axis 1" in named
    assert named[-1] == "conv2d 2x8x8x4, 1x8x3x3, padding 1"
    with pytest.raises(ZeroDivisionError):
        op_calls(lambda: 1 / 0)
    assert vars(ops) == before


@pytest.fixture
def threads_restored() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = lanes.count(), torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        yield
    lanes.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture
def rivals(threads_restored: None) -> dict[str, Party]:
    """Parties with the same weights, all of them random: GroupNorm starts at 1 and 0, which hides mistakes."""
    from benchmarks.torch_networks import Eager

    model, host = UNet(3, 8, 3), np.random.default_rng(1)
    for p in model.parameters().values():
        if p.ndim == 1:
            p.data = (p.data + host.normal(size=p.shape) * 0.3).astype(np.float32)
    made = {
        "minidiff": Minidiff(model),
        "PyTorch": Eager(model),
        "channels_last": Eager(model, channels_last=True),
    }
    for party in made.values():
        party.use_threads(1)
    return made


def data(*shape: int) -> tuple[Any, Any, Any]:
    x, noise = Generator(5).normal((2, *shape))
    return x, np.linspace(3, 999, shape[0]).astype(np.int64), noise


def test_pytorchs_network_is_minidiffs(rivals: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours, *others = (party.forward(*data(3, 3, 8, 12)[:2]).run() for party in rivals.values())
    for y in others:
        np.testing.assert_allclose(ours, y.numpy(), rtol=0, atol=1e-5)
    assert others[1].is_contiguous(memory_format=torch.channels_last)
    assert list(rivals["PyTorch"].network.state_dict()) == list(rivals["minidiff"].model.state_dict())


def test_training_steps_are_the_same(rivals: dict[str, Party]) -> None:
    steps = [party.training_step(*data(3, 3, 8, 8)).run for party in rivals.values()]
    for number in range(3):
        (loss, grads), *others = (step() for step in steps)
        for other, other_grads in others:
            np.testing.assert_allclose(loss, other.numpy(), rtol=1e-5)
            assert grads.keys() == other_grads.keys()
            for name, grad in grads.items():
                atol = 1e-6 if number == 0 else 1e-4  # Adam divides rounding errors by small moments
                np.testing.assert_allclose(grad, other_grads[name].numpy(), rtol=0, atol=atol, err_msg=name)


def test_ddim_draws_the_same(rivals: dict[str, Party]) -> None:
    start = data(2, 3, 8, 8)[2]
    before = start.copy()
    ours, *others = (party.ddim(start, 7).run() for party in rivals.values())
    for images in others:
        np.testing.assert_allclose(ours, images.numpy(), rtol=0, atol=1e-4)
    assert np.array_equal(start, before)
    assert np.abs(ours - start).max() > 0.1


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "PAUSE", 0.0)
    monkeypatch.setattr(interleave, "PATIENCE", 0.0)


@pytest.mark.usefixtures("threads_restored", "no_pauses")
def test_sections(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sections = ["ops", "forward", "step", "ddim", "growth"]
    figures = json.loads(json.dumps(cpu.measure(TINY, sections)))
    assert figures["threads"] == 1
    assert list(figures)[-5:] == sections
    calls = figures["ops"]["calls"]
    assert {row["op"] for row in calls} == {
        "add", "concat", "conv2d", "group_norm", "linear", "silu", "upsample2d"
    }  # fmt: skip
    assert sum(row["calls"] for row in calls) + sum(figures["ops"]["not compared"].values()) == 88
    for row in calls:
        assert list(row["forward"]["ms"]) == list(row["backward"]["ms"]) == list(cpu_sections.PARTIES)
    assert [(row["batch"], row["side"]) for row in figures["forward"]] == list(TINY.forward)
    assert [row["batch"] for row in figures["step"]["steps"]] == [2]
    assert figures["ddim"]["steps"] == 2
    assert all(cost["ms"] > 0 for cost in figures["ddim"]["overhead"].values())
    assert {name: [row[name] for row in rows] for name, rows in figures["growth"].items()} == {
        "batch": [1, 2], "side": [8], "threads": [1]
    }  # fmt: skip
    printed = capsys.readouterr().out
    for comparison in (figures["forward"][1], figures["ddim"]):
        ratio = comparison["ratio to"]["PyTorch"]["median"]
        assert f"{ratio:.2f} (" in printed


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.skipif(not cpu_sections.STATUS.exists(), reason="only Linux has /proc")
@pytest.mark.parametrize("party", cpu_sections.PARTIES)
def test_resident_size(party: str) -> None:
    sizes = cpu_sections.resident(party, TINY)
    assert 0 < sizes["before"] <= sizes["peak"]
    assert sizes["difference"] == pytest.approx(sizes["peak"] - sizes["before"], abs=0.2)


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    draw(GROWTH, tmp_path / "cpu.png")
    with Image.open(tmp_path / "cpu.png") as picture:
        assert picture.size == (1600, 560)
        assert len(set(picture.convert("RGB").tobytes())) > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "ops,opps"], "no section opps; there are ops, forward, step, ddim, memory, growth"),
        (["--threads", "0"], "at least 1 thread is needed, got 0"),
        (["--save", "--only", "ops"], "--save needs all sections in full"),
        (["--save", "--quick"], "--save needs all sections in full"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cpu.main(arguments)
    assert message in capsys.readouterr().err


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cpu.main(["--quick"]) == 1
    error = capsys.readouterr().err
    assert "torch missing" in error
    assert '-m pip install ".[bench]"' in error


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [(Disagreement("they differ"), 1, "error: they differ"), (KeyboardInterrupt(), 130, "nothing was saved")],
)
def test_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: BaseException, code: int,
    message: str,
) -> None:  # fmt: skip
    def measure(plan: cpu_sections.Plan, sections: list[str]) -> None:
        assert plan == cpu_sections.Plan(threads=3).quick()
        assert sections == ["step", "ops"]
        raise reason

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cpu, "measure", measure)
    assert cpu.main(["--quick", "--only", "step,ops", "--threads", "3"]) == code
    assert message in capsys.readouterr().err


def test_saving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cpu, "measure", lambda plan, sections: {"sections": sections, "growth": GROWTH})
    monkeypatch.setattr(cpu, "PICTURES", tmp_path)
    monkeypatch.setattr(cpu.machine, "RESULTS", tmp_path)
    assert cpu.main(["--save"]) == 0
    saved = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert saved["sections"] == list(cpu_sections.SECTIONS)
    assert "cores" in saved["machine"]
    assert (tmp_path / "cpu.png").stat().st_size > 1000
    assert cpu.main(["--save", "other", "--only", "ops"]) == 0
    assert json.loads((tmp_path / "other.json").read_text(encoding="utf-8"))["sections"] == ["ops"]
