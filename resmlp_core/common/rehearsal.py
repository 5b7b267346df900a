"""What a rehearsal found of a run: its table, its verdict, what to change, and whether the run can start."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

from resmlp_core.common.devices import Device, gigabytes
from resmlp_core.common.errors import UserError
from resmlp_core.common.figures import as_json, duration, parts, row, span
from resmlp_core.common.files import alone_in, remove, write_json

MINUTES = 5.0
REPORT = "rehearsal.json"
PHASES = ("data", "forward", "backward", "communication", "optimiser")
SAME_LOSS = 2e-3  # relative; the sums of a GPU differ by less from run to run, other batches by more
WAITING = 0.1  # of a step: a run that waits longer for its data has too few workers
WORSE = 1.5  # times the first loss
GROWTH = 2.0  # in a quarter of the ramp's updates, while the rate stays where it is
MOST_ADVICE = 5


@dataclass
class Changes:
    """How a half of the project writes what advice may change: ``key=value``, as its command line takes it.

    Args:
        batch: the setting for the most that a device takes at once, given that number.
        workers: the setting for as many processes that load data.
        rate: the setting for a learning rate of this fraction of the recipe's.
        precision: the setting for half precision; None where the run has it, or the device has it not.
        disk: a setting by which the run needs less disk; None where there is none.
        free_batch: whether what is learnt stays the same with more at once, as with ``effective_tokens``.
    """

    batch: Callable[[int], str]
    workers: Callable[[int], str]
    rate: Callable[[float], str]
    precision: str | None = None
    disk: str | None = None
    free_batch: bool = False


@dataclass
class Rehearsal:
    """What a rehearsal found; what it has not come to stays empty.

    Args:
        run: what is rehearsed, such as ``wmt14_en_de, resmlp_12``.
        command: the command that starts the run itself.
        unit: what speed and batches are counted in: ``tokens`` or ``images``.
        devices: what trains.
        interconnect: gigabytes a second from one GPU to the next; None for a single device.
        workers: processes that load data, on each device; 0 where the one that trains loads them.
        parameters: of the model.
        batch: the most units that a device takes at once.
        fits: whether a device has memory for the largest batch; None if that was not tried.
        peak_memory: bytes on the device that needed most, at the largest batch.
        largest_batch: the most units that were tried and fit in nine tenths of the memory.
        larger_fails: whether more than that was tried, and did not fit.
        speed: units a second of all devices, in usual updates.
        loader_speed: units a second that the processes that load data can give to all devices.
        milliseconds: of a usual update, by phase: ``PHASES``, and ``other``.
        steps: updates of the whole run.
        hours: of the whole run, by what takes them.
        price: of an hour, in whatever currency.
        disk: bytes that the whole run needs, by what needs them.
        disk_free: bytes that are free where the run will write.
        gradient_norms: of each rehearsed update; the last ones as in ``ramp``.
        losses: of each rehearsed update, in the same order.
        ignorance: the loss of a model that tells nothing apart, where the loss may rise to it, as DINO's does.
        activations: the largest activation in each update of the ramp.
        ramp: how many of the last updates were the ramp to ``rate`` and, for its second half, at that rate.
        rate: the highest learning rate that was tried.
        lost: losses of the updates that the kill undid.
        resumed: losses of the same updates after resuming.
        failures: what ended a part of the rehearsal, in the words of its error.
        notes: what was rehearsed otherwise than the run will be.
        minutes: that the rehearsal took.
    """

    run: str
    command: str
    unit: str
    devices: list[Device] = field(default_factory=list)
    interconnect: float | None = None
    workers: int = 0
    parameters: int = 0
    batch: int = 0
    fits: bool | None = None
    peak_memory: int = 0
    largest_batch: int = 0
    larger_fails: bool = False
    speed: float = 0.0
    loader_speed: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    hours: dict[str, float] = field(default_factory=dict)
    price: float | None = None
    disk: dict[str, int] = field(default_factory=dict)
    disk_free: int = 0
    gradient_norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ignorance: float = 0.0
    activations: list[float] = field(default_factory=list)
    ramp: int = 0
    rate: float = 0.0
    lost: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    minutes: float = 0.0

    @property
    def verdict(self) -> str:
        """``finite``, ``growing`` or ``diverged``: what became of the gradients, the activations and the loss."""
        if not all(map(math.isfinite, (*self.gradient_norms, *self.losses, *self.activations))):
            return "diverged"
        losses, quarter = self.losses[-self.ramp :] if self.ramp else [], max(1, self.ramp // 4)
        worst = WORSE * max(self.losses[0], self.ignorance) if losses else math.inf
        if losses and median(losses[-quarter:]) > worst:
            return "diverged"
        if losses and max(losses) > worst:  # and it came back
            return "growing"
        for values in (self.gradient_norms[-self.ramp :], self.activations) if self.ramp >= 8 else ():
            if median(values[-quarter:]) > GROWTH * median(values[-2 * quarter : -quarter]):
                return "growing"
        return "finite"

    @property
    def resumes(self) -> bool | None:
        """Whether the updates after resuming were those that the kill undid; None if that was not tried."""
        if not self.lost:
            return None
        return len(self.lost) == len(self.resumed) and all(
            math.isclose(*pair, rel_tol=SAME_LOSS) for pair in zip(self.lost, self.resumed, strict=True)
        )

    def reasons(self) -> list[str]:
        """Why the run cannot start, most telling first; nothing if it can."""
        found = []
        if self.fits is False:
            found.append(f"out of memory: a batch of {self.batch:,} {self.unit} does not fit {self._memory()}")
        found += self.failures
        if self.resumes is False:
            found.append(f"not resumable: after a kill the losses were {row(self.resumed)}, before {row(self.lost)}")
        if self.verdict == "diverged":
            found.append(f"diverged: at a learning rate of {self.rate:.3g} the loss was {row(self.losses[-3:])}")
        if sum(self.disk.values()) > self.disk_free:
            needed, free = gigabytes(sum(self.disk.values())), gigabytes(self.disk_free)
            found.append(f"too little disk: the run needs {needed}, {free} are free")
        return found

    def advice(self, changes: Changes) -> list[str]:
        """Say in at most five lines what to change, each ``key=value`` and why."""
        lines = []
        if self.largest_batch and self.largest_batch < self.batch:
            lines.append(f"{changes.batch(self.largest_batch)}  leaves a tenth of the memory to spare")
        if self.verdict != "finite":
            lines.append(f"{changes.rate(0.5)}  half the learning rate: it is {self.verdict} at {self.rate:.3g}")
        if self.disk_free < sum(self.disk.values()):
            lines.append(f"{changes.disk}  needs less disk" if changes.disk else "--out on a larger disk")
        step = sum(self.milliseconds.values())
        if step and self.milliseconds.get("data", 0.0) > WAITING * step and self.loader_speed:
            share = self.milliseconds["data"] / step
            device_speed = self.speed / (1 - share)  # what the devices would do if no data were awaited
            wanted = math.ceil(1.2 * device_speed * max(1, self.workers) / self.loader_speed)
            lines.append(
                f"{changes.workers(max(self.workers + 1, wanted))}  {100 * share:.0f} % of a step is waiting for data"
            )
        if changes.precision and torch.cuda.is_available():
            lines.append(f"{changes.precision}  half precision, which this GPU has, is faster; check the quality")
        if changes.free_batch and torch.cuda.is_available() and self.largest_batch >= 2 * self.batch > 0:
            lines.append(f"{changes.batch(self.largest_batch)}  fits too, and needs fewer steps an update")
        return lines[:MOST_ADVICE]

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the table: what was measured, and its value."""
        for device in dict.fromkeys(self.devices):
            number = self.devices.count(device)
            yield "device", (f"{number} × " if number > 1 else "") + str(device)
        if self.interconnect:
            yield "between GPUs", f"{self.interconnect:.0f} GB/s"
        yield "parameters", f"{self.parameters:,}"
        if self.fits is not None:
            yield "largest batch", f"{self.batch:,} {self.unit}: {self._peak() if self.fits else 'does not fit'}"
        if self.largest_batch:
            beyond = "more does not" if self.larger_fails else "more was not tried"
            yield "fits, a tenth to spare", f"{self.largest_batch:,} {self.unit}; {beyond}"
        if self.speed:
            yield "speed", f"{self.speed:,.0f} {self.unit}/s; data can be loaded at {self.loader_speed:,.0f}"
            yield "an update", parts({name: f"{ms:,.0f}" for name, ms in self.milliseconds.items()}) + " ms"
        if self.resumes is not None:
            told = "the same losses" if self.resumes else f"{row(self.resumed)}, before the kill {row(self.lost)}"
            yield "killed and resumed", told
        if self.losses:
            first, last, most = self.losses[0], self.losses[-1], max(self.losses)
            yield "loss", f"{first:.2f} to {last:.2f} in {len(self.losses)} updates, {most:.4g} at most"
            norms, tops = span(self.gradient_norms[-self.ramp or 0 :]), span(self.activations)
            yield f"at a rate of {self.rate:.3g}", f"{self.verdict}; gradient norm {norms}, largest activation {tops}"
        if self.hours:
            whole = parts({name: duration(hours) for name, hours in self.hours.items()})
            yield "the whole run", f"{self.steps:,} updates, {duration(sum(self.hours.values()))}: {whole}"
            if self.price is not None:
                yield "cost", f"{self.price * sum(self.hours.values()):,.2f} at {self.price:g} an hour"
        if self.disk:
            whole = parts({name: gigabytes(size) for name, size in self.disk.items()})
            yield "disk", f"{gigabytes(sum(self.disk.values()))}: {whole}; {gigabytes(self.disk_free)} are free"
        yield "the rehearsal", f"{self.minutes:.1f} minutes"

    def conclude(self, folder: Path, changes: Changes) -> int:
        """Write rehearsal.json, print the table and what follows from it.

        Returns:
            The exit status: 0 if the run can start, else 1.
        """
        reasons, advice = self.reasons(), self.advice(changes)
        sums = {"verdict": self.verdict, "resumes": self.resumes, "can_start": not reasons}
        found = asdict(self) | sums | {"reasons": reasons, "advice": advice}
        print()
        for reason in reasons:
            print(f"cannot start: {reason}")
        for name, value in self.rows():
            print(f"{name:>24}  {value}")
        for note in self.notes:
            print(f"{'note':>24}  {note}")
        for line in advice:
            print(f"{'change':>24}  {line}")
        print(f"Everything is in {folder}", flush=True)
        if not reasons:
            print(f"To start it:\n{self.command}", flush=True)
        write_json(folder / REPORT, as_json(found))
        return 1 if reasons else 0

    def _memory(self) -> str:
        return f"into {gigabytes(min(device.memory for device in self.devices))}" if self.devices else ""

    def _peak(self) -> str:
        most = min((device.memory for device in self.devices), default=0)
        share = f", {100 * self.peak_memory / most:.0f} % of what there is" if most else ""
        return f"{gigabytes(self.peak_memory)} at its peak{share}"


def folder_of(out: Path) -> Path:
    """Return the folder of a run's rehearsal, beside the run's own."""
    return Path(os.path.abspath(out) + ".rehearsal")  # whole, as the name of "." is empty


@contextmanager
def rehearsing(out: Path) -> Iterator[Path]:
    """Make the folder of a rehearsal, ``OUT.rehearsal`` beside the run's, anew, and hold it while the block runs.

    Raises:
        UserError: there is such a folder, and no rehearsal made it; or another rehearsal is at work there.
    """
    folder = folder_of(out)
    if folder.exists() and any(folder.iterdir()) and not (folder / REPORT).exists():
        raise UserError(f"{folder} was not made by a rehearsal, which would replace it: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        write_json(folder / REPORT, {"can_start": None, "reasons": ["the rehearsal has not ended"]})
        for earlier in folder.iterdir():
            if earlier.name != REPORT:
                remove(earlier)
        yield folder
