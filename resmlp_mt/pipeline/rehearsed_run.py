"""The stages of a recipe on a sample of its data, its training in two parts: one that is killed, one that resumes."""

import json
import os
import time
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from resmlp_core.common.devices import SPARE, Device
from resmlp_core.common.errors import UserError
from resmlp_mt.data.binarized import sentence_lengths
from resmlp_mt.pipeline.fairseq_commands import run_fairseq_train
from resmlp_mt.pipeline.rehearsal_plan import Plan, read_plan, variable
from resmlp_mt.pipeline.run import Run

OBSERVED = "resmlp_mt.pipeline.rehearsed_training"


class RehearsedRun(Run):
    """A run whose training is watched and steered by ``rehearsed_training``.

    Args:
        settings: of the recipe.
        out: a folder within the rehearsal's.
        seconds: that each part of training may take.

    Attributes:
        held_out: all pairs of valid and test, of which some are in the data.
        seen: what was seen of training, by part.
    """

    def __init__(self, settings: Mapping[str, Any], out: Path, seconds: Mapping[str, float]) -> None:
        super().__init__({key: value for key, value in settings.items() if key != "teacher"}, out)
        self.seconds = seconds
        self.held_out: dict[str, list[tuple[str, str]]] = {}
        self.seen: dict[str, dict[str, Any]] = {"first": {}, "resumed": {}}
        self.since = started()  # torchrun starts all processes before the first one plans

    def prepare(self) -> None:
        """Prepare, and let each translation have the mean length of the references.

        A model that has hardly learnt anything would end its translations at once, or not at all.
        """
        super().prepare()
        length = self._mean_length()
        lengths = {"min-len": length, "max-len-a": 0, "max-len-b": length}
        self.settings = {**self.settings, "generate": self.settings["generate"] | lengths}

    def train_options(self) -> dict[str, Any]:
        """Settle the options of fairseq-train, with translations of that length where it makes them to validate."""
        options = super().train_options()
        if options.get("eval-bleu"):
            length = self._mean_length()
            given = json.loads(options.get("eval-bleu-args") or "{}")
            lengths = {"min_len": length, "max_len_a": 0, "max_len_b": length}
            options["eval-bleu-args"] = json.dumps(given | lengths)
        return options

    def _mean_length(self) -> int:
        """Return the mean length of the references to validate on, in tokens."""
        prefix = self.data_bin / f"valid.{self.source}-{self.target}.{self.target}"
        return max(1, round(float(np.mean(sentence_lengths(prefix)))))

    def train(self) -> None:
        """Train until the process kills itself, then on from its checkpoint, until it ends."""
        self.train_in_parts()
        if self.seen["resumed"].get("saved"):
            self.end_training()

    def train_in_parts(self) -> None:
        """Do the first part and, if it came to its end, the second.

        Raises:
            UserError: one failed, and not by a lack of memory or by numbers that overflowed.
        """
        self._part("first")
        if self.seen["first"].get("killed"):
            self._part("resumed")

    @property
    def roomy(self) -> bool:
        """Whether the largest batch left a tenth of the memory."""
        peak = self.seen["first"].get("peak_memory", inf)
        return bool(peak <= (1 - SPARE) * min((device.memory for device in self.devices), default=0))

    @property
    def devices(self) -> list[Device]:
        """What trained, as its processes found it: this one leaves the GPUs to them."""
        return [Device(**device) for device in self.seen["first"].get("hardware", [])]

    def _part(self, part: str) -> None:
        record, plan = (self.out / f"{part}-{name}.json" for name in ("seen", "plan"))
        if int(os.environ.get("RANK", 0)):
            self._wait_for(plan)
        else:
            self._plan(part, record).write(plan)
        options = self.train_options() | {"max-epoch": None}  # fairseq reads it before there is an update to watch
        if "RANK" in os.environ:  # a process group of its own for each part
            options |= {"distributed-init-method": f"file://{(self.out / f'{part}-meeting').resolve()}"}
        if first := self.seen["first"]:
            options |= {"update-freq": first["update_freq"]}
        problem = None
        try:
            run_fairseq_train(
                *(self._train_data(), self.folder, options, self.settings["matmul_precision"]),
                module=OBSERVED,
                environment=variable(plan),
            )
        except UserError as error:
            problem = last_line(str(error))
        seen = self.seen[part] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        diverged = not all(map(isfinite, seen.get("losses", [])))
        # that the process failed is a finding where it was to be killed, had no memory, or met numbers not finite
        if problem and not (seen.get("killed") or seen.get("saved") or seen.get("fits") is False or diverged):
            raise UserError(seen.get("error") or problem)

    def _plan(self, part: str, record: Path) -> Plan:
        plan = Plan(part, dict(self.seconds), str(record.resolve()), time.time())
        if first := self.seen["first"]:
            plan.last, plan.batch = first["last"], first["batch"]
            plan.roomy = self.roomy
        return plan

    def _wait_for(self, plan: Path) -> None:
        """Wait until torchrun's first process has come to a part; what lies there may be an earlier rehearsal's."""
        while not plan.exists() or read_plan(plan).started < self.since:
            time.sleep(0.2)

    def _lengths(self, split: str, lang: str) -> NDArray[np.int32]:
        """Return those of all sentences of valid and test, and not only of those that are rehearsed."""
        if split == "train":
            return super()._lengths(split, lang)
        processor = sentencepiece.SentencePieceProcessor(model_file=str(self.out / "sentencepiece.model"))
        side = (self.source, self.target).index(lang)
        texts = [pair[side] for pair in self.held_out[split]]
        return np.array([len(ids) for ids in processor.encode(texts, add_eos=True)], np.int32)


def last_line(message: str) -> str:
    """Return how a program ended, and the last of what it said."""
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1].strip()}"


def started() -> float:
    """Return when this process was started, in seconds as ``time.time`` counts them."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])  # since the boot
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
