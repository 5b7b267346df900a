"""What a rehearsal found of a run: whether it can start, why not, what became of it, and what to change."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from resmlp_core.common.devices import Device, gigabytes
from resmlp_core.common.figures import row

PHASES = ("data", "forward", "backward", "communication", "optimiser")
SAME_LOSS = 2e-3  # relative: a GPU's sums differ by less from run to run, the losses of other batches by more
WAITING = 0.1  # of a step; a run that waits longer for its data has too few workers
WORSE = 1.5  # times the first loss
STEEP = 20  # updates: a ramp that rises in fewer, and in less than a tenth of the warm-up, tells little of divergence
GROWTH = 2.0  # times as much in the ramp's last quarter as in the quarter before, where the rate stays the same
TELLING = 16  # updates of a ramp: the medians of its quarters differ by chance where there are fewer
MOST_ADVICE = 5


@dataclass
class Changes:
    """How the settings that advice may change are written, ``key=value``, on the command line of translation or vision.

    Args:
        batch: the settings by which a device takes at most this number at once; an update stays as large.
        workers: the setting for this number of processes that load data; None where all cores load already.
        rate: the setting for a learning rate of this fraction of the recipe's.
        disk: what to change where there is too little disk.
        half: the setting for half precision; None where the run has it already, or what trains is no GPU that has it.
        single: the setting for float32 where the run's half precision is emulated; else None.
        free_batch: whether the run learns the same, and faster, where a device takes more at once: a GPU does if its
            share of an update is in parts.
    """

    batch: Callable[[int], str]
    workers: Callable[[int], str] | None
    rate: Callable[[float], str]
    disk: str
    half: str | None = None
    single: str | None = None
    free_batch: bool = False


@dataclass
class Rehearsal:
    """What a rehearsal found; what it did not come to stays empty.

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
        ignorance: the loss of a model that tells nothing apart, where a sound run may rise to it, as DINO's does.
        activations: the largest activation in each update of the ramp.
        ramp: how many of the last updates were the ramp to ``rate`` and, for its second half, at that rate.
        warmup: updates in which the run itself comes to its highest rate.
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
    warmup: int = 0
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
            return "growing" if self.steep else "diverged"
        if losses and max(losses) > worst:  # and it came back
            return "growing"
        for values in (self.gradient_norms[-self.ramp :], self.activations) if self.ramp >= TELLING else ():
            if median(values[-quarter:]) > GROWTH * median(values[-2 * quarter : -quarter]):
                return "growing"
        return "finite"

    @property
    def steep(self) -> bool:
        """Whether the ramp rose so much faster than the run's warm-up that a rising loss tells little."""
        return self.ramp // 2 < min(STEEP, self.warmup / 10)

    @property
    def resumes(self) -> bool | None:
        """Whether the updates after resuming were those that the kill undid; None if that was not tried."""
        if not self.lost:
            return None
        return len(self.lost) == len(self.resumed) and all(
            math.isclose(*pair, rel_tol=SAME_LOSS) for pair in zip(self.lost, self.resumed, strict=True)
        )

    def reasons(self) -> list[str]:
        """Say why the run cannot start, the most telling reason first; nothing if it can."""
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
        if self.fits is not None and 0 < self.largest_batch < self.batch:
            lines.append(f"{changes.batch(self.largest_batch)}  leaves a tenth of the memory to spare")
        if self.verdict == "growing" and self.steep:
            lines.append(
                f"more --rehearse-minutes  it is growing, but the ramp to {self.rate:.3g} rose in {self.ramp // 2} "
                f"updates, the warm-up has {self.warmup:,}"
            )
        elif self.verdict != "finite":
            lines.append(f"{changes.rate(0.5)}  half the learning rate: it is {self.verdict} at {self.rate:.3g}")
        if self.disk_free < sum(self.disk.values()):
            lines.append(changes.disk)
        step = sum(self.milliseconds.values())
        waits = self.milliseconds.get("data", 0.0) > WAITING * step
        if changes.workers and step and waits and self.loader_speed:
            share = self.milliseconds["data"] / step
            device_speed = self.speed / (1 - share)  # what the devices would do if no data were awaited
            wanted = math.ceil(1.2 * device_speed * max(1, self.workers) / self.loader_speed)
            lines.append(
                f"{changes.workers(max(self.workers + 1, wanted))}  {100 * share:.0f} % of a step is waiting for data"
            )
        if changes.half:
            lines.append(f"{changes.half}  half precision, which this GPU has, is faster; check the quality")
        if changes.single:
            lines.append(f"{changes.single}  is faster: this processor emulates half precision")
        if changes.free_batch and self.largest_batch >= 2 * self.batch > 0:
            lines.append(f"{changes.batch(self.largest_batch)}  fits too, and needs fewer steps an update")
        return lines[:MOST_ADVICE]

    def _memory(self) -> str:
        return f"into {gigabytes(min(device.memory for device in self.devices))}" if self.devices else ""
