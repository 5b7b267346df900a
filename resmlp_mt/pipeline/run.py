"""The stages of a recipe, from raw text to BLEU: prepare, train, average, generate, score.

Each is skipped when its output is complete. After an interruption training goes on from its last checkpoint, and a
translation begins anew.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import resmlp_mt.plugin  # noqa: F401  before other modules load fairseq, which would then configure logging
from resmlp_core.common.checkpoint import count_parameters, read_checkpoint, write_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, remove, write_json
from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.plots import draw_matrices
from resmlp_mt.average import average_checkpoints
from resmlp_mt.data.binarized import sentence_lengths
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.data.prepared import read_report
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.metrics import bleu_of, moses_tokenizer, other_form, score, score_tokenized
from resmlp_mt.patches.unsupported import FLAT
from resmlp_mt.pipeline.checkpoints import is_trained, mend_checkpoints, newest_checkpoints, whole_checkpoints
from resmlp_mt.pipeline.checks import (
    length_limits,
    refuse_long_sentences,
    refuse_missing_start,
    refuse_other_data,
    refuse_other_devices,
)
from resmlp_mt.pipeline.distillation import distil, distilled_data, made_by
from resmlp_mt.pipeline.fairseq_commands import (
    count_devices,
    count_gpus,
    run_fairseq_generate,
    run_fairseq_train,
    share_batch,
)
from resmlp_mt.pipeline.kept_settings import keep_settings
from resmlp_mt.pipeline.learning_curve import draw_learning_curve, read_curve
from resmlp_mt.pipeline.provenance import provenance
from resmlp_mt.prepare import prepare

STAGES = ("prepare", "train", "average", "generate", "score")


class Run:
    """One model of a recipe: what its stages read and write in the recipe's folder and in one of its own there.

    Args:
        settings: as ``settings.read_recipe`` gives them. ``name`` is the run's folder; ``teacher``, if set,
            is that of the run whose translations of the training set are trained on.
        out: the recipe's folder, which holds the data.
    """

    def __init__(self, settings: Mapping[str, Any], out: Path) -> None:
        self.settings = settings
        self.out = out
        self.folder = out / settings["name"]
        self.data_bin = out / "data-bin"
        self.source, _, self.target = settings["pair"].partition("-")

    def run(self, stages: Sequence[str] = STAGES) -> None:
        """Run these stages, in order, as far as their outputs are not whole yet.

        Under ``torchrun`` its first process alone does what is to be done once; the others share its training.

        Raises:
            UserError: a stage failed, or one before it has not been run, or a sentence does not fit, or the folder
                holds a run with other settings.
        """
        if int(os.environ.get("RANK", 0)):
            if "train" in stages and not is_trained(self.folder, self.settings["train"].get("max-update")):
                self._train()
            return
        if "train" in stages:
            refuse_missing_start(self.settings["train"], self.folder)
        if "prepare" in stages:
            self.prepare()
        later = [stage for stage in STAGES[1:] if stage in stages]
        if not later:
            return
        if not (self.data_bin / f"dict.{self.source}.txt").exists():
            raise UserError(f"there is no {self.data_bin}: run the stage prepare first")
        refuse_other_data(self.settings, self.out)
        refuse_long_sentences(self.settings, self._lengths)
        bleu_of(self.target)  # that a tokeniser is not installed, or not for this language, is to be found now too
        if self.settings["tokenized_bleu"]:
            moses_tokenizer(self.target, "tokenized_bleu")
        self.folder.mkdir(exist_ok=True)
        with alone_in(self.folder):
            teacher = self.settings.get("teacher")
            taught_by = {"taught_by": made_by(self.out, teacher)} if teacher else {}
            keep_settings(self.folder, {**self.settings, **taught_by})
            for stage in later:
                getattr(self, stage)()

    def prepare(self) -> None:
        """Make the data of all runs of the recipe, and the teacher's translations of them if there is a teacher."""
        rules = Rules(**self.settings["clean"])
        prepare(
            *(self.settings["data"], self.source, self.target, self.settings["vocab_size"], self.out),
            rules=rules,
            normalization=self.settings["normalization"],
        )
        if teacher := self.settings.get("teacher"):
            distil(self.out, teacher, self.target, self.settings["generate"])

    def _train_data(self) -> Path:
        """Return the binary data that are trained on: the recipe's, or a teacher's translations of them."""
        teacher = self.settings.get("teacher")
        return distilled_data(self.out, teacher) if teacher else self.data_bin

    def train(self) -> None:
        """Train with fairseq-train, from the last checkpoint if there is one; train.log has all it says."""
        if is_trained(self.folder, self.settings["train"].get("max-update")):
            print("training: done before")
        else:
            refuse_other_devices(self.settings, self.folder / "checkpoints")
            if left_out := self._left_out():
                print(f"{left_out:,} training pairs are longer than max-source-positions or max-target-positions allow")
            self._train()
        self.end_training()

    def end_training(self) -> None:
        """Leave what the stages after it read: the newest whole checkpoint as the last, and a mark that it is done."""
        mend_checkpoints(self.folder / "checkpoints")
        (self.folder / "trained").touch()

    def _train(self) -> None:
        run_fairseq_train(self._train_data(), self.folder, self.train_options(), self.settings["matmul_precision"])

    def train_options(self) -> dict[str, Any]:
        """Settle the options of fairseq-train: those of the recipe, for as many devices as there are."""
        options = self.settings["train"]
        if "RANK" in os.environ:
            options = options | {
                "distributed-world-size": count_devices(options),
                "distributed-rank": os.environ["RANK"],
                "device-id": os.environ.get("LOCAL_RANK", 0),  # a launcher of one process a machine may not set it
                "distributed-init-method": "env://",
                "distributed-no-spawn": True,
            }
        elif options.get("cpu"):
            options = options | {"distributed-world-size": count_devices(options)}  # else as many as GPUs
        if effective := self.settings["effective_tokens"]:
            options = options | share_batch(effective, options["max-tokens"], count_devices(options))
        if options.get("fp16") and not (options.get("optimizer") in FLAT and count_gpus(options)):
            options = options | {"fp16-no-flatten-grads": True}
        # KEY={"beam": 4} of the command line is YAML's mapping before it is fairseq's JSON
        mappings = {name: value for name, value in options.items() if isinstance(value, dict)}
        return dict(options) | {name: json.dumps(value) for name, value in mappings.items()}

    def batches_together(self) -> int:
        """Return how many batches a device takes for an update."""
        return int(str(self.train_options().get("update-freq") or 1).strip("[").split(",")[0])

    def average(self) -> None:
        """Average the last checkpoints into model.pt: as many as give the best BLEU on the validation set.

        average.json says how many, and their BLEU.
        """
        self._must_exist("trained", "train")
        model, choice = self.folder / "model.pt", self.folder / "average.json"
        if not (model.exists() and choice.exists()):
            if not whole_checkpoints(self.folder / "checkpoints"):
                raise UserError(f"{self.folder / 'checkpoints'} is empty: delete {self.folder} to train anew")
            references = read_lines(self.out / "text" / f"valid.{self.target}")
            bleu: dict[int, float] = {}
            candidate = self.folder / "candidate.pt"
            for most in self.settings["average"]:
                chosen = newest_checkpoints(self.folder / "checkpoints", most)
                count = len(chosen)  # there may be fewer
                if count in bleu:
                    continue
                write_checkpoint(candidate, average_checkpoints(chosen))
                output = self.folder / f"valid-{count}.txt"
                run_fairseq_generate(self.data_bin, candidate, output, "valid", self.settings["generate"])
                bleu[count] = float(score(read_hypotheses(output), references, self.target)["bleu"])
                names = ", ".join(path.name for path in chosen)
                print(f"averaged {names}: validation BLEU {bleu[count]:.2f}", flush=True)
                best = max(bleu, key=bleu.__getitem__)
                if count == best:
                    candidate.replace(model)
            remove(candidate)
            write_json(choice, {"averaged": best, "valid_bleu": bleu[best]})
        draw_learning_curve(self.folder / "tensorboard", self.folder / "learning-curve.png", self.folder.name)
        if self.settings["train"]["arch"].startswith("resmlp"):
            first_and_last = read_model(model).matrices(self.settings["shown_positions"], most_layers=2)
            draw_matrices(first_and_last, self.folder / "matrices.png")

    def generate(self) -> None:
        """Translate the test set; generate.txt is as fairseq-generate prints it."""
        self._must_exist("average.json", "average")
        output = self.folder / "generate.txt"
        run_fairseq_generate(self.data_bin, self.folder / "model.pt", output, "test", self.settings["generate"])

    def score(self) -> None:
        """Score the translations of the test set; results.json has everything that is needed to repeat the run."""
        self._must_exist("generate.txt", "generate")
        sources, references = (read_lines(self.out / "text" / f"test.{lang}") for lang in (self.source, self.target))
        hypotheses = read_hypotheses(self.folder / "generate.txt")
        print(f"scoring {len(hypotheses):,} translations", flush=True)
        scores = score(hypotheses, references, self.target)
        if tokenized := self.settings["tokenized_bleu"]:
            scores |= score_tokenized(hypotheses, references, self.target, tokenized == "split compounds")
        outcome = self.describe() | scores | {"train_pairs_too_long": self._left_out()}
        write_json(self.folder / "results.json", outcome | provenance(self.settings, read_report(self.out)))
        show_translations(sources, references, hypotheses)
        if warning := other_form(hypotheses, references, self.target):
            print(f"\n{warning}")

    def describe(self) -> dict[str, Any]:
        """Return what training took and gave: parameters, updates, devices, hours, bits a token, tokens a second.

        The last, target tokens, is fairseq's, by epoch; an epoch's time includes its validation and saving.
        """
        state = read_checkpoint(self.folder / "model.pt")  # the checkpoints may be gone by now
        tensorboard = self.folder / "tensorboard"
        valid_loss = read_curve(tensorboard / "valid", "loss")
        # of an only epoch fairseq tells after its last checkpoint, and a kill may come between
        tokens_per_second = read_curve(tensorboard / "train", "wps") or read_curve(tensorboard / "train_inner", "wps")
        if not (valid_loss and tokens_per_second):
            raise UserError(f"{tensorboard} lacks losses or speeds: delete {self.folder} to train anew")
        return {
            "parameters": count_parameters(state["model"]),
            "updates": state["optimizer_history"][-1]["num_updates"],
            "devices": state["cfg"]["distributed_training"]["distributed_world_size"],
            "hours": float(state["extra_state"]["previous_training_time"]) / 3600,  # several processes save a tensor
            "tokens_per_second": sum(tokens_per_second.values()) / len(tokens_per_second),
            "valid_loss": list(valid_loss.values())[-1],
            "best_valid_loss": min(valid_loss.values()),
        } | json.loads((self.folder / "average.json").read_text(encoding="utf-8"))

    def _left_out(self) -> int:
        """Count the training pairs that fairseq leaves out, since they do not fit into A."""
        limits = length_limits(self.settings).items()
        return int(np.any([self._lengths("train", lang) > limit for lang, (_, limit) in limits], axis=0).sum())

    def _lengths(self, split: str, lang: str) -> NDArray[np.int32]:
        """Return the tokens of each sentence of a split, its end included."""
        folder = self._train_data() if split == "train" else self.data_bin
        return sentence_lengths(folder / f"{split}.{self.source}-{self.target}.{lang}")

    def _must_exist(self, name: str, stage: str) -> None:
        if not (self.folder / name).exists():
            raise UserError(f"there is no {self.folder / name}: run the stage {stage} first")


def show_translations(sources: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Print five translations, spread over the test set, beside their sources and references."""
    for i in range(0, len(hypotheses), max(1, len(hypotheses) // 5))[:5]:
        print(f"\n  source      {sources[i]}\n  reference   {references[i]}\n  translation {hypotheses[i]}")
