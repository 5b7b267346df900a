"""The parts of a rehearsal, one after another, and what each finds."""

import dataclasses
import gc
import json
import math
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timm.utils import random_seed

from resmlp_core.common.devices import (
    available_cores,
    emulates,
    find_devices,
    gigabytes,
    interconnect_speed,
    usable_memory,
)
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import remove
from resmlp_core.common.rehearsal import Changes, Rehearsal
from resmlp_vision.config import Config, RunConfig
from resmlp_vision.data.loaders import share_batch
from resmlp_vision.data.sample import Data
from resmlp_vision.distributed import gather, processes_here, rank, world_size
from resmlp_vision.training.batch_trial import BatchTrial
from resmlp_vision.training.checkpoints import LAST
from resmlp_vision.training.loader_watch import workers_of
from resmlp_vision.training.rehearsed_run import EPOCHS, ShortRun, Watched
from resmlp_vision.training.step_times import FirstBatches, loader_speed, time_phases, time_updates
from resmlp_vision.training.trainer import Trainer

# What the parts may take of the time; the rest goes to opening the data, to starting and to what an estimate misses.
TRYING, LOADING, TIMING, TRAINING, VALIDATING = 0.2, 0.05, 0.15, 0.35, 0.04
UPDATE = 0.01  # that one update may take: of a batch that takes longer, a part is rehearsed
RUNS = 2 * EPOCHS + 0.5  # epochs of the short run, the one that is killed and the one that resumes, in all
FEWEST, MOST_UPDATES = 4, 40  # in an epoch of the short run
PHASED = 6  # updates whose phases are watched
ORDER = ("data", "forward", "teacher", "backward", "communication", "optimiser", "average", "other")
ONCE = ("communication", "optimiser", "average")  # phases of an update that do not take longer for a larger batch
CHECKPOINTS = 3  # files that may lie beside each other: the last, the best, and one that is being written


@dataclass
class Parts:
    """The parts of a rehearsal, which fill in what was found.

    Args:
        config: the settings of the training.
        trainer_type: how it trains.
        device: of this process.
        folder: of the rehearsal.
        found: what is filled in.
        seconds: for all parts.
    """

    config: Any
    trainer_type: type[Trainer[Any]]
    device: torch.device
    folder: Path
    found: Rehearsal
    seconds: float

    def __post_init__(self) -> None:
        self.recipe = self.config  # of which a smaller batch may be rehearsed
        self.opening = Data(self.folder)

    def run(self) -> bool:
        """Do all parts, up to the first that fails; return whether one did."""
        parts: list[tuple[str, Callable[[], None]]] = [
            ("opening the data, building the model", self.open),
            ("trying batches", self.try_batches),
            ("timing the loader and the updates", self.time),
            ("training up to the highest rate, validating, saving", self.train),
            ("killing and resuming", self.kill_and_resume),
        ]
        for name, part in parts:
            if rank() == 0:
                print(f"{name} ...", flush=True)
            try:
                part()
            except UserError as error:
                self.found.failures.append(f"{name}: {error}")
            except Exception as error:  # whatever a loader, a driver or a disk raises: it would end the training too
                where = self.folder / "error.txt"
                with suppress(OSError):  # of a full disk
                    where.write_text(traceback.format_exc(), encoding="utf-8")
                lines = str(error).strip().splitlines() or [""]
                self.found.failures.append(f"{name}: {type(error).__name__}: {lines[-1]}; {where} has all of it")
            finally:
                gc.collect()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            if self.found.failures:
                return True
        return False

    def build(self, config: RunConfig) -> Any:
        """Build a trainer; the start of its weights is the same in all processes."""
        random_seed(config.seed)
        trainer = self.trainer_type(config, self.device, self.opening)
        trainer.watch.silent = True
        return trainer

    def open(self) -> None:
        """Open the data, build the model; find the devices, and how many updates the training has."""
        start = time.monotonic()
        self.found.batch = share_batch(self.config)
        devices = find_devices(self.device.type == "cuda")
        self.found.devices = gather(devices[self.device.index or 0])
        if self.device.type == "cuda" and rank() == 0 and world_size() > 1:
            self.found.interconnect = interconnect_speed()
        trainer = self.build(self.config)
        self.found.parameters = trainer.parameters
        self.found.workers = workers_of(trainer.loader)
        updates = trainer.updates_per_epoch
        if images := self.opening.whole.get(self.config.train_split):
            self.found.notes.append(f"a sample stands for {gigabytes(self.opening.needed)} of data, not yet prepared")
            rounded = images // 256 * 256 if getattr(self.config, "repeated_aug", 0) else images  # as timm does
            updates = rounded // self.config.batch_size
        self.found.steps = self.config.epochs * updates
        self.found.warmup = int(self.config.warmup_epochs * updates)
        self.starting = time.monotonic() - start

    def try_batches(self) -> None:
        """Find the largest batch; where the recipe's does not fit, the rest is rehearsed with one that does."""
        found, config = self.found, self.config
        trainer = self.build(config)
        small = dataclasses.replace(config, batch_size=min(8, found.batch) * world_size(), accumulate=1)
        trainer.config = small
        loader = trainer.training_loader(self.opening(config, config.train_split, training=True))
        trainer.config = config
        trial = BatchTrial(trainer, next(iter(loader)), usable_memory(processes=processes_here()))
        found.larger_fails = trial.search(found.batch, TRYING * self.seconds)
        found.largest_batch = trial.largest
        found.fits = trial.holds(found.batch)
        found.peak_memory = int(trial.peaks.get(found.batch) or trial.predict(trial.peaks, found.batch))
        if found.fits is None:
            foretold = f"; {gigabytes(found.peak_memory)} are foretold for it" if self.device.type == "cpu" else ""
            found.notes.append(f"a batch of {found.batch:,} images would take too long to be tried{foretold}")
        if not found.largest_batch:
            raise UserError("out of memory: not even a few images fit")
        if found.fits is False:
            self.config = dataclasses.replace(config, accumulate=parts_that_fit(config, found.largest_batch))
            found.notes.append(f"what follows was rehearsed with accumulate={self.config.accumulate}")
        self.image = trial.seconds[found.largest_batch] / found.largest_batch

    def shorten(self) -> Any:
        """Return settings with updates of a hundredth of the time at most, and validation batches as short."""
        config, share = self.config, share_batch(self.config)
        most = max(2, int(UPDATE * self.seconds / self.image))
        parts = max(1, min(config.accumulate, most // share))
        share = min(share, most - most % 2)
        validated = max(FirstBatches.FEWEST // 2, int(VALIDATING * self.seconds / 2 / self.image))  # in each of two
        rehearsed = dataclasses.replace(
            config,
            batch_size=share * parts * world_size(),
            accumulate=parts,
            val_batch_size=min(config.val_batch_size, validated),
        )
        if rehearsed.batch_size < config.batch_size:
            self.found.notes.append(
                f"updates of {rehearsed.batch_size:,} images were rehearsed: {config.batch_size:,} take too long"
            )
        return rehearsed

    def time(self) -> None:
        """Measure the loader, an update and its phases; tell what an update of the whole batch takes."""
        found, config = self.found, self.config
        self.rehearsed = self.shorten()
        trainer = self.build(self.rehearsed)
        found.loader_speed = loader_speed(trainer, LOADING * self.seconds)
        phases = time_phases(trainer, min(PHASED, trainer.updates_per_epoch))
        guess = max(gather(sum(phases.values())))
        updates = min(trainer.updates_per_epoch, max(6, int(TIMING * self.seconds / guess)), 3 * MOST_UPDATES)
        self.epoch_start, self.update = map(max, zip(*gather(time_updates(trainer, updates)), strict=True))
        phases["other"] = max(0.0, self.update - guess)
        times = config.batch_size / self.rehearsed.batch_size
        once = sum(phases.get(phase, 0.0) for phase in ONCE)
        self.whole_update = once + times * max(0.0, self.update - once)
        found.milliseconds = {
            phase: 1000 * phases[phase] * (1 if phase in ONCE else times) for phase in ORDER if phase in phases
        }
        found.speed = config.batch_size / self.whole_update
        if found.milliseconds.get("data", 0.0) > 0.1 * 1000 * self.whole_update and self.all_cores_load():
            found.notes.append("all cores load images: smaller files, or images resized ahead, load faster")

    def all_cores_load(self) -> bool:
        """Whether no core is left for another process that loads images."""
        return self.found.workers >= available_cores(processes_here())

    def train(self) -> None:
        """Train up to the highest rate, validate and save; project what the whole training takes."""
        found, out = self.found, self.folder / "whole"
        updates = int(TRAINING * self.seconds / RUNS / self.update)
        updates = max(FEWEST, min(updates, MOST_UPDATES))
        self.short = ShortRun(self.rehearsed, self.trainer_type, self.opening, updates, VALIDATING * self.seconds)
        watched = Watched(found.losses, found.gradient_norms, found.activations)
        try:
            self.short.run(out, watched)
        finally:
            found.ramp, found.rate = len(found.losses), watched.rate
            found.ignorance = math.log(getattr(self.recipe, "out_dim", 1))
        if rank() == 0:
            self.project(out)

    def project(self, out: Path) -> None:
        """Tell what the whole training takes, from what the short one in a folder took: hours and disk."""
        found, config = self.found, self.config
        last = json.loads((out / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        trained = len(found.losses) / EPOCHS * self.rehearsed.batch_size / last["images_per_second"]
        seconds = {"starting": self.starting}
        seconds["training"] = config.epochs * self.epoch_start + found.steps * self.whole_update
        if loaders := self.short.loaders:
            validation = last["seconds"] - trained + sum(loader.whole - loader.taken for loader in loaders)
            seconds["validation"] = validation * math.ceil(config.epochs / config.val_every)
        seconds["saving"] = config.epochs * median(self.short.saving)
        found.hours = {part: took / 3600 for part, took in seconds.items()}
        found.disk = {"checkpoints": CHECKPOINTS * (out / LAST).stat().st_size}
        if self.opening.needed:
            found.disk["data"] = self.opening.needed
        found.disk_free = shutil.disk_usage(self.folder).free
        found.disk_free += sum(path.stat().st_blocks * 512 for path in out.rglob("*") if path.stat().st_nlink == 1)

    def kill_and_resume(self) -> None:
        """Train once more, in a process that is killed; go on from what it leaves, to the same losses."""
        found, out = self.found, self.folder / "killed"
        self.short.run_and_kill(out)
        resumed = Watched()
        self.short.run(out, resumed)
        found.lost, found.resumed = found.losses[-(len(found.losses) // EPOCHS) :], resumed.losses
        if rank() == 0:
            for folder in (out, self.folder / "whole"):
                remove(folder)

    def changes(self) -> Changes:
        """Return how advice is written as settings."""
        recipe, parts = self.recipe, self.recipe.accumulate
        on_gpu = self.device.type == "cuda"
        half = on_gpu and recipe.dtype == "float32" and any(device.bf16 for device in self.found.devices)
        return Changes(
            batch=lambda size: f"accumulate={parts_that_fit(recipe, size)}",
            workers=None if self.all_cores_load() else lambda number: f"workers={number}",
            rate=lambda share: f"lr={share * recipe.lr:.3g}",
            half="dtype=bfloat16" if half else None,
            single=None if on_gpu or not emulates(recipe.dtype) else "dtype=float32",
            disk="out=FOLDER on a larger disk",
            free_batch=on_gpu and isinstance(recipe, Config) and parts > 1,
        )


def parts_that_fit(config: RunConfig, most: int) -> int:
    """Return the fewest parts of a process's share of an update that have no more images than fit."""
    share, pairs = config.batch_size // world_size(), getattr(config, "mixup", 0) or getattr(config, "cutmix", 0)
    sizes = [size for size in range(1, min(most, share) + 1) if share % size == 0 and not (pairs and size % 2)]
    return share // max(sizes, default=1)
