"""A recipe rehearsed: all of its stages with little of its data, in a folder of its own."""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any

from resmlp_core.common.arguments import starter
from resmlp_core.common.errors import UserError, in_one_line
from resmlp_core.common.rehearsal import Rehearsal
from resmlp_core.common.rehearsal_report import conclude, folder_of, rehearsing
from resmlp_mt.data.sample import Sample, write_sample
from resmlp_mt.data.vocabulary_stage import VocabularyTooLargeError
from resmlp_mt.pipeline.checks import STARTS, refuse_missing_start
from resmlp_mt.pipeline.distillation import find_teacher
from resmlp_mt.pipeline.rehearsal_findings import changes_of, project, tell_training
from resmlp_mt.pipeline.rehearsed_run import RehearsedRun

PAIRS, HELD_OUT = 8000, 20  # for each minute that it may take
SHARES = {"read": 0.1, "first": 0.2, "usual": 0.2, "ramp": 0.1, "search": 0.1}  # of its time; the stages take the rest
PREPARED = {"text": "text", "vocabulary": "sentencepiece.vocab", "data-bin": "data-bin"}  # in the order that they come


def rehearse(
    settings: Mapping[str, Any],
    out: Path,
    minutes: float,
    price: float | None = None,
    write_data: Callable[[Path], None] | None = None,
) -> int:
    """Rehearse a recipe in the folder ``OUT.rehearsal``, and print and write what was found.

    Args:
        settings: of the recipe, as ``settings.read_recipe`` gives them.
        out: the folder of the run itself, which is not touched.
        minutes: that it may take, about.
        price: of an hour on this machine.
        write_data: writes the recipe's data to a folder, where they are to be written and are not there.

    Returns:
        The exit status: 0 if the run can start, else 1.

    Raises:
        UserError: its folder is in use.
    """
    if int(os.environ.get("RANK", 0)):  # of torchrun's processes the others only train; the first tells what failed
        with suppress(UserError):
            RehearsedRun(settings, folder_of(out) / "run", shares_of(60 * minutes)).train_in_parts()
        return 0
    started = time.perf_counter()
    found = Rehearsal(f"{out.name}, {settings['name']}", start_command(), "tokens", price=price)
    with rehearsing(out) as folder:
        rehearsal = RecipeRehearsal(found, settings, folder, 60 * minutes)
        print(rehearsal.announcement(), flush=True)
        try:
            if teacher := settings.get("teacher"):
                find_teacher(out, teacher)
            refuse_missing_start(settings["train"], out / settings["name"])
            if write_data:
                write_data(folder / "written")
                rehearsal.settings["data"] = str(folder / "written")
            rehearsal.measure()
        except UserError as error:
            found.failures.append(f"{rehearsal.stage}: {error}")
        except OSError as error:
            found.failures.append(f"{rehearsal.stage}: {in_one_line(error)}")
        found.disk_free = shutil.disk_usage(folder).free
        found.minutes = (time.perf_counter() - started) / 60
        return conclude(found, folder, changes_of(settings, found))


def start_command() -> str:
    """Return the command that this process was started by, less what asks for a rehearsal.

    Under torchrun, which is only for the stage train, it is three lines: that stage's, and before and after it those
    of the other stages.
    """
    line = re.sub(r"^-u | --(rehearse-minutes|price)[ =]\S+| --rehearse\b", "", shlex.join(sys.orig_argv[1:]))
    started = starter() + line
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "--stage" in line:
        return started
    return f"python {line} --stage prepare\n{started} --stage train\npython {line}"


def shares_of(seconds: float) -> dict[str, float]:
    """Share the time of a rehearsal."""
    return {name: share * seconds for name, share in SHARES.items()}


class RecipeRehearsal:
    """One rehearsal, as far as it has come.

    Args:
        found: where what is found goes.
        settings: of the recipe.
        folder: for all that it writes.
        seconds: that it may take.
    """

    def __init__(self, found: Rehearsal, settings: Mapping[str, Any], folder: Path, seconds: float) -> None:
        self.found, self.settings, self.folder, self.seconds = found, dict(settings), folder, seconds
        self.pairs, self.held_out = ceil(PAIRS * seconds / 60), max(4, ceil(HELD_OUT * seconds / 60))
        self.took: dict[str, float] = {}
        self.stage = "prepare"

    def announcement(self) -> str:
        """Say what the rehearsal will do."""
        return (
            f"Rehearsing in {self.folder} for about {self.seconds / 60:g} min; the run's own folder is not touched."
            f"\nIt reads up to {self.pairs:,} training pairs, learns the vocabulary, trains the model at its full size "
            "on the longest batches and on usual ones, is killed and resumes, raises the learning rate to the "
            "schedule's highest, looks for the largest batch that fits, averages, translates and scores."
        )

    def measure(self) -> None:
        """Run every stage, and project from what they took.

        Raises:
            UserError: a stage failed.
        """
        if self.settings.get("teacher"):
            self.found.notes += [
                "trained on the true targets, not on a teacher's translations, which take as long",
                "hours and disk lack the teacher's translations of the training set",
            ]
        sample, run = self._sample()
        self._prepare(run, sample)
        self.stage = "train"
        run.run(["train"])
        tell_training(self.found, run)
        if not run.seen["resumed"].get("saved"):
            return  # what was found says why
        for self.stage in ("average", "generate", "score"):
            started = time.perf_counter()
            run.run([self.stage])
            self.took[self.stage] = time.perf_counter() - started
        project(self.found, run, sample, self.took)

    def _sample(self) -> tuple[Sample, RehearsedRun]:
        """Take some of the corpus, and make a run of the recipe for that."""
        settings, data = dict(self.settings), self.folder / "corpus"
        source, _, target = settings["pair"].partition("-")
        seconds, mend = shares_of(self.seconds), settings["clean"]["drop_bad_encoding"]
        corpus = (settings["data"], source, target)
        sample = write_sample(corpus, data, self.pairs, self.held_out, seconds["read"], mend)
        if sample.taken < sample.pairs:
            of = f"{sample.taken:,} of {sample.pairs:,} training pairs, {sample.read:,} read"
            self.found.notes.append(f"rehearsed with {of}")
            for start in filter(settings["train"].get, STARTS):  # it is refused with any vocabulary but its own
                self.found.notes.append(f"trained from random weights, not from train.{start}")
                settings["train"] = {**settings["train"], start: None}
        run = RehearsedRun(settings | {"data": str(data)}, self.folder / "run", seconds)
        run.held_out = sample.held_out
        return sample, run

    def _prepare(self, run: RehearsedRun, sample: Sample) -> None:
        """Prepare, with a smaller vocabulary where a part of the corpus does not yield the recipe's."""
        began = time.time()
        try:
            run.run(["prepare"])
        except VocabularyTooLargeError as error:
            if sample.taken == sample.pairs:
                raise
            self.found.notes.append(f"so few pairs yield a vocabulary of {error.most}, not of {error.size}")
            run.settings = {**run.settings, "vocab_size": error.most}
            run.run(["prepare"])
        for name, path in PREPARED.items():  # a file is as old as the end of its stage
            ended = (run.out / path).stat().st_mtime
            self.took[name], began = ended - began, ended
