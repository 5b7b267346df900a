"""A recipe rehearsed: all of its stages with little of its data, in a folder of its own, and what that tells of it."""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resmlp_core.common.devices import find_devices, interconnect_speed
from resmlp_core.common.errors import UserError
from resmlp_core.common.rehearsal import Changes, Rehearsal, folder_of, rehearsing
from resmlp_mt.data.sample import Sample, write_sample
from resmlp_mt.pipeline.projection import hours_of, length_of
from resmlp_mt.pipeline.rehearsed_run import RehearsedRun

PAIRS, HELD_OUT = 8000, 20  # for each minute that it may take
SHARES = {"read": 0.1, "first": 0.2, "usual": 0.2, "ramp": 0.1, "search": 0.1}  # of its time; the stages take the rest


def rehearse(
    settings: dict[str, Any],
    out: Path,
    minutes: float,
    price: float | None,
    command: str,
    write_data: Callable[[Path], None] | None = None,
) -> int:
    """Rehearse a recipe in the folder ``OUT.rehearsal``, and print and write what was found.

    Args:
        settings: of the recipe, as ``resmlp_mt.recipe.read_recipe`` gives them.
        out: the folder of the run itself, which is not touched.
        minutes: that it may take, about.
        price: of an hour on this machine.
        command: that starts the run itself.
        write_data: writes the recipe's data to a folder, where they are to be written and are not there.

    Returns:
        The exit status: 0 if the run can start, else 1.
    """
    if int(os.environ.get("RANK", 0)):  # of torchrun's processes the others only train
        RehearsedRun(settings, folder_of(out) / "run", parts_of(60 * minutes)).train_in_parts()
        return 0
    started = time.perf_counter()
    found = Rehearsal(f"{out.name}, {settings['name']}", command, "tokens", price=price)
    with rehearsing(out) as folder:
        rehearsal = TextRehearsal(found, settings, folder, 60 * minutes)
        announce(rehearsal, minutes)
        try:
            if write_data:
                write_data(folder / "written")
                rehearsal.settings["data"] = str(folder / "written")
            rehearsal.measure()
        except (UserError, OSError) as error:
            where = getattr(error, "filename", None)
            found.failures.append(f"{rehearsal.stage}: " + (f"{where}: " if where else "") + describe(error))
        found.disk_free = shutil.disk_usage(folder).free
        found.minutes = (time.perf_counter() - started) / 60
        return found.conclude(folder, rehearsal.changes())


def parts_of(seconds: float) -> dict[str, float]:
    """Share the time of a rehearsal."""
    return {name: share * seconds for name, share in SHARES.items()}


def announce(rehearsal: "TextRehearsal", minutes: float) -> None:
    """Say what a rehearsal will do."""
    print(
        f"Rehearsing in {rehearsal.folder}, about {minutes:g} minutes: reads up to {rehearsal.pairs:,} training pairs, "
        "learns the vocabulary, trains the model at its full size on the longest batches and on usual ones, is killed "
        "and resumes, raises the learning rate to its highest, looks for the largest batch, averages, translates and "
        "scores. The run's own folder is not touched.",
        flush=True,
    )


class TextRehearsal:
    """One rehearsal, as far as it has come.

    Args:
        found: where what is found goes.
        settings: of the recipe.
        folder: for all that it writes.
        seconds: that it may take.
    """

    def __init__(self, found: Rehearsal, settings: Mapping[str, Any], folder: Path, seconds: float) -> None:
        self.found, self.settings, self.folder, self.seconds = found, dict(settings), folder, seconds
        if self.settings.get("teacher"):
            found.notes.append("trained on the true targets, not on a teacher's translations, which take as long")
        self.pairs = ceil(PAIRS * seconds / 60)
        self.allowed = parts_of(seconds)
        self.took: dict[str, float] = {}
        self.stage = "prepare"

    def measure(self) -> None:
        """Run every stage, and project from what they took.

        Raises:
            UserError: a stage failed.
        """
        settings, found = self.settings, self.found
        found.devices, found.interconnect = find_devices(), interconnect_speed()
        held_out = max(4, ceil(HELD_OUT * self.seconds / 60))
        source, _, target = settings["pair"].partition("-")
        data = self.folder / "corpus"
        mend = settings["clean"]["drop_bad_encoding"]
        sample = write_sample(
            (settings["data"], source, target), data, self.pairs, held_out, self.allowed["read"], mend
        )
        if sample.taken < sample.read or sample.read < sample.pairs:
            found.notes.append(
                f"rehearsed with {sample.taken:,} of {sample.pairs:,} training pairs, {sample.read:,} read"
            )
        run = RehearsedRun(settings | {"data": str(data)}, self.folder / "run", self.allowed)
        run.held_out = sample.held_out
        with self.timing("prepare"):
            self._prepare(run, sample)
        for self.stage in ("train", "average", "generate", "score"):
            with self.timing(self.stage):
                run.run([self.stage])
            if self.stage == "train":
                self._tell_training(run)
                if not run.seen["resumed"].get("saved"):
                    return
        self._project(run, sample)

    @contextmanager
    def timing(self, stage: str) -> Any:
        """Keep how many seconds a stage took."""
        started = time.perf_counter()
        yield
        self.took[stage] = time.perf_counter() - started

    def _prepare(self, run: RehearsedRun, sample: Sample) -> None:
        """Prepare, with a smaller vocabulary where a part of the corpus does not yield the recipe's."""
        started = time.time()
        try:
            run.run(["prepare"])
        except UserError as error:
            most = re.search(r"--vocab-size .* choose at most (\d+)", str(error))
            if not most or sample.taken == sample.pairs:
                raise
            self.found.notes.append(
                f"rehearsed with a vocabulary of {most[1]}: so few pairs do not yield {run.settings['vocab_size']}"
            )
            run.settings = {**run.settings, "vocab_size": int(most[1])}
            run.run(["prepare"])
        ends = [
            started,
            *((run.out / name).stat().st_mtime for name in ("text", "sentencepiece.vocab", "data-bin")),
        ]
        self.took |= {name: ends[i + 1] - ends[i] for i, name in enumerate(("text", "vocabulary", "data-bin"))}

    def _tell_training(self, run: RehearsedRun) -> None:
        """Take over what the two parts of training have seen."""
        found, first, resumed = self.found, run.seen["first"], run.seen["resumed"]
        found.parameters, found.batch, found.fits = first.get("parameters", 0), first.get("batch", 0), first.get("fits")
        found.peak_memory, found.workers = first.get("peak_memory", 0), run.settings["train"].get("num-workers", 1)
        found.rate = largest(run.settings["train"]["lr"])
        tried = first.get("search", []) + resumed.get("search", [])
        fitting = [size for size, fits in tried if fits] + [found.batch] * run.roomy
        found.largest_batch, found.larger_fails = max(fitting, default=0), any(not fits for _, fits in tried)
        before = [i for i, update in enumerate(first["updates"]) if update <= first.get("saved_at", 0)]
        kept = [i for i, update in enumerate(resumed.get("updates", [])) if update > first.get("last", 0)]
        found.lost = first["losses"][len(before) :]
        if not resumed:  # it ran out of memory, or diverged
            found.losses, found.gradient_norms = first["losses"], first["gradient_norms"]
            return
        found.resumed = resumed["losses"][: len(resumed["losses"]) - len(kept)]
        found.losses = first["losses"] + [resumed["losses"][i] for i in kept]
        found.gradient_norms = first["gradient_norms"] + [resumed["gradient_norms"][i] for i in kept]
        found.activations, found.ramp = resumed["activations"], resumed["ramp"]
        found.rate = resumed.get("rate", found.rate)
        if "milliseconds" not in resumed:
            raise UserError("fairseq-train ended before its updates were measured")
        freq = run.batches_together()
        times = freq / first["update_freq"]
        if times > 1:
            found.notes.append(f"an update took {first['update_freq']} of its {freq} batches; the times are of all")
        once = ("optimiser", "communication")
        found.milliseconds = {name: ms * (1 if name in once else times) for name, ms in resumed["milliseconds"].items()}
        found.speed = 1000 * times * resumed["update_tokens"] / sum(found.milliseconds.values())
        found.loader_speed = resumed["loader_speed"]

    def _project(self, run: RehearsedRun, sample: Sample) -> None:
        """Say what the whole run takes."""
        found, first, resumed, took = self.found, run.seen["first"], run.seen["resumed"], self.took
        growth = sample.pairs / sample.taken
        freq = run.batches_together()
        tokens = first["tokens"] / first["batches"] * freq * first["devices"]  # of a usual update
        length = length_of(self.settings["train"], growth * first["batches"] / freq / first["devices"])
        checkpoints = list((run.folder / "checkpoints").glob("*.pt"))
        checkpoint = max(path.stat().st_size for path in checkpoints)
        translated = {
            split: translating(path)
            for split, path in (("valid", self._valid_log(run)), ("test", run.folder / "generate.log"))
        }
        seconds = took | {
            "read": sample.seconds,
            "startup": first["startup"],
            "validation": min(first["validations"] + resumed["validations"]),
            "save": float(np.mean(first["saves"] + resumed["saves"])),
            "average": took["average"] - translated["valid"],
            "generate": took["generate"] - translated["test"],
            "translate valid": translated["valid"],
            "translate test": translated["test"],
        }
        counts = {min(count, length.kept - 2) for count in self.settings["average"]}
        sizes = {
            split: len(pairs) / len_of(run.out / "text" / f"{split}.{run.source}")
            for split, pairs in sample.held_out.items()
        }
        grown = {"read": sample.pairs / sample.read, "train": growth, "pairs": sample.taken, "candidates": len(counts)}
        found.steps = length.updates
        found.hours = hours_of(seconds, grown | sizes, length, tokens / found.speed)
        of = {name: sum(path.stat().st_size for path in (run.out / name).iterdir()) for name in ("text", "data-bin")}
        found.disk = {name: int(growth * size) for name, size in of.items()}
        found.disk["checkpoints"] = length.kept * checkpoint + 2 * (run.folder / "model.pt").stat().st_size

    def _valid_log(self, run: RehearsedRun) -> Path:
        return max(run.folder.glob("valid-*.log"), key=lambda path: path.stat().st_mtime)

    def changes(self) -> Changes:
        """Say how a recipe writes what advice may change."""
        train = self.settings["train"]
        half = train.get("fp16") or train.get("bf16") or train.get("amp")
        kept = train.get("keep-interval-updates") or train.get("keep-last-epochs")
        which = "keep-interval-updates" if train.get("save-interval-updates") else "keep-last-epochs"
        fewest = max(self.settings["average"])
        return Changes(
            batch=lambda tokens: f"train.max-tokens={tokens}",
            workers=lambda number: f"train.num-workers={number}",
            rate=lambda fraction: f"train.lr={fraction * largest(train['lr']):g}",
            precision="train.bf16=true" if self._has_bf16() and not half else None,
            disk=f"train.{which}={fewest}" if not kept or kept > fewest else None,
            free_batch=bool(self.settings["effective_tokens"]),
        )

    def _has_bf16(self) -> bool:
        return torch.cuda.is_available() and all(device.bf16 for device in self.found.devices)


def largest(rates: Any) -> float:
    """Return the largest of fairseq's learning rates, which are one or, by epoch, several."""
    return max(float(rate) for rate in re.findall(r"[\d.eE+-]+", str(rates)))


def translating(log: Path) -> float:
    """Return the seconds that fairseq-generate spent on translating, by its own word."""
    told = re.search(r"Translated .* in ([\d.]+)s", log.read_text(encoding="utf-8"))
    return float(told[1]) if told else 0.0


def len_of(text: Path) -> int:
    """Count the lines of a text."""
    with text.open("rb") as file:
        return sum(1 for _ in file)


def describe(error: Exception) -> str:
    """Say what an error says."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
