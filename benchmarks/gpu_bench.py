"""What the sections of `benchmarks.gpu` share: plan, budget, parties, what was said, what failed or was left out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from benchmarks.gpu_device import Device
from benchmarks.gpu_parties import Ours, Party, network, unet_cases
from benchmarks.gpu_timing import Budget, OutOfTime, Times, interleave
from benchmarks.interleave import Work
from minidiff.backend import get_backend
from minidiff.testing import Case
from minidiff.testing.case import case, normal

__all__ = ["CAPTURED", "CHANNELS_LAST", "COMPILED", "EAGER", "LIMITS", "OURS", "Bench", "DeviceLost", "Plan"]

T = TypeVar("T")

OURS, CAPTURED = "minidiff", "captured"
EAGER, CHANNELS_LAST = "PyTorch", "channels_last"
COMPILED = {"compiled": "default", "max-autotune": "max-autotune"}  # party, mode of torch.compile

# How far results of two parties may be apart, relative norm, both rounding: of an op, of a network.
LIMITS = {"float32": (5e-3, 3e-2), "float16": (5e-3, 5e-2), "bfloat16": (3e-2, 2e-1)}


class DeviceLost(Exception):
    """A kernel failed so that nothing runs on the device any more in this process."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes
    ----------
    channels, side : int
        The network is UNet(3, channels, 3), the images are side x side.
    batches : tuple of int
        Of ops and forwards.
    batch : int
        Of sampling, and of the network that is checked against the CPU.
    step_batch : int
        Of training steps.
    dtypes : tuple of str
    convolutions : tuple of (batch, channels, side, filters, kernel)
        The large ones.
    attentions : tuple of (batch, heads, length, width)
    normalizations : tuple of (batch, channels, side)
        In 32 groups, with SiLU.
    ddim, check_steps : int
        Steps of a loop that is timed, and of one that is compared with the CPU's.
    square : int
        Side of the matrices that show how fast products can be.
    copied_bytes : int
        Of the copy that shows how fast memory can be.
    rounds : int
    least : float
        Seconds of calls in a sample.
    seconds : float
        For everything.
    """

    channels: int = 64
    side: int = 32
    batches: tuple[int, ...] = (16, 128)
    batch: int = 16
    step_batch: int = 128
    dtypes: tuple[str, ...] = ("bfloat16", "float32", "float16")
    convolutions: tuple[tuple[int, int, int, int, int], ...] = (
        (32, 256, 64, 256, 3),
        (16, 512, 32, 512, 3),
        (16, 1280, 16, 1280, 3),
        (32, 512, 32, 512, 1),
    )
    attentions: tuple[tuple[int, int, int, int], ...] = (
        (16, 4, 256, 64),
        (16, 8, 1024, 64),
        (8, 8, 4096, 64),
    )
    normalizations: tuple[tuple[int, int, int], ...] = ((16, 128, 32), (128, 128, 32), (16, 320, 64))
    ddim: int = 50
    check_steps: int = 20
    square: int = 8192
    copied_bytes: int = 1 << 30
    rounds: int = 7
    least: float = 3e-3
    seconds: float = 440.0

    def quick(self) -> Plan:
        """A smaller plan, for a first look."""
        return replace(
            self,
            batches=self.batches[:1],
            dtypes=self.dtypes[:2],
            convolutions=self.convolutions[:1],
            attentions=self.attentions[1:2],
            normalizations=self.normalizations[:2],
            ddim=10,
            rounds=5,
            seconds=150.0,
        )


@dataclass
class Bench:
    """One run.

    Attributes
    ----------
    torch : module or None
        `benchmarks.gpu_torch`, where PyTorch can use the device.
    log : list of str
        What was printed.
    failures, left_out : list of str
        What went wrong; what there was no time for.
    ceilings : dict of str to float
        Bytes per second of a copy, under "copy"; operations per second by dtype.
    """

    device: Device
    plan: Plan
    budget: Budget
    seed: int
    torch: Any = None
    log: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print, and remember for the log."""
        print(text, flush=True)
        self.log += text.splitlines()

    def require(self, condition: object, message: str) -> None:
        """Note a failure unless the condition holds."""
        if not condition:
            self.failures.append(message)
            self.say(f"FAILED  {message}")

    def attempt(self, label: str, run: Callable[[], T]) -> T | None:
        """What `run()` returns; None if it fails or there is no time for it, which is noted.

        Raises
        ------
        DeviceLost
            If after a failure the device does not answer.
        """
        if self.budget.left() <= 0:
            self.left_out.append(label)
            return None
        try:
            with self.budget.limit():
                return run()
        except OutOfTime:
            self.left_out.append(f"{label} (begun)")
        except Exception as reason:
            first = str(reason).strip().partition("\n")[0]
            self.require(False, f"{label}: {type(reason).__name__}: {first}")
            self.log += traceback.format_exc().splitlines()
            if not self.answers():
                raise DeviceLost(label) from reason
        return None

    def answers(self) -> bool:
        """Whether the device can still be used: after an access outside of memory, for instance, it cannot."""
        try:
            self.device.backend.synchronize()
        except Exception:
            return False
        return True

    def parties(self, *names: str) -> dict[str, Party]:
        """Those of the parties that there are here, with the same weights."""
        weights = network(get_backend("cpu"), self.plan.channels)
        made: dict[str, Party] = {}
        for name in names:
            if name in (OURS, CAPTURED):
                made[name] = Ours(self.device, self.plan.channels, captured=name == CAPTURED)
            elif self.torch is not None:
                made[name] = self.torch.PyTorch(
                    weights,
                    self.device.torch_device,
                    channels_last=name != EAGER,
                    mode=COMPILED.get(name),
                )
        return made

    def compare(
        self, parties: dict[str, Party], works: dict[str, Work], *, limit: float, ahead: bool = False
    ) -> Times:
        """`interleave` as planned."""
        return interleave(
            self.device,
            works,
            {name: party.to_host for name, party in parties.items()},
            needed=OURS,
            rounds=self.plan.rounds,
            least=self.plan.least,
            ahead=ahead,
            limit=limit,
            budget=self.budget,
        )

    def convolutions(self, batch: int) -> list[Case]:
        """Those of the U-Net."""
        found = unet_cases(self.device.backend, self.plan.channels, batch, self.plan.side)
        return [c for c, _ in found if c.op == "conv2d"]

    def large_convolutions(self) -> list[Case]:
        """As planned."""
        return [
            case("conv2d", normal(n, c, s, s), normal(o, c, k, k), normal(o), padding=k // 2)
            for n, c, s, o, k in self.plan.convolutions
        ]

    def attentions(self) -> list[Case]:
        """As planned."""
        return [
            case("scaled_dot_product_attention", *(normal(*shape) for _ in range(3)))
            for shape in self.plan.attentions
        ]

    def normalizations(self) -> list[Case]:
        """As planned."""
        return [
            case(
                "group_norm", normal(n, c, s, s), normal(c), normal(c), groups=32, eps=1e-5, activation="silu"
            )
            for n, c, s in self.plan.normalizations
        ]

    def shapes(self) -> Sequence[Case]:
        """All that is timed, of the U-Net with the first batch."""
        plan = self.plan
        network = unet_cases(self.device.backend, plan.channels, plan.batches[0], plan.side)
        others = self.normalizations() + self.attentions() + self.large_convolutions()
        return [c for c, _ in network] + others
