"""The stages of a recipe, from raw text to BLEU: prepare, train, average, generate, score.

Each is skipped when its output is complete. After an interruption training goes on from its last checkpoint, and a
translation begins anew.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import resmlp_mt.plugin
from resmlp_core.common.checkpoint import count_parameters, read_checkpoint, write_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, digest, remove, write_json
from resmlp_core.common.settings import changed
from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.plots import draw_matrices
from resmlp_mt.average import average_checkpoints
from resmlp_mt.data.binarized import sentence_lengths
from resmlp_mt.data.binary_stage import replace_train_targets
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.patches.unsupported import FLAT
from resmlp_mt.pipeline.checkpoints import is_trained, mend_checkpoints, newest_checkpoints, whole_checkpoints
from resmlp_mt.pipeline.fairseq_commands import run_fairseq_generate, run_fairseq_train, share_batch
from resmlp_mt.pipeline.kept_settings import keep_settings
from resmlp_mt.pipeline.learning_curve import draw_learning_curve, read_curve
from resmlp_mt.pipeline.provenance import provenance
from resmlp_mt.prepare import prepare, same_data_or
from resmlp_mt.score import (
    best_hypotheses,
    bleu_of,
    moses_tokenizer,
    other_form,
    read_hypotheses,
    read_lines,
    score,
    score_tokenized,
)

STAGES = ("prepare", "train", "average", "generate", "score")


def find_teacher(out: Path, teacher: str) -> Path:
    """Return the model of a finished run in a recipe's folder.

    Raises:
        UserError: there is none.
    """
    model = out / teacher / "model.pt"
    if not model.with_name("average.json").exists():  # until then model.pt is the best candidate so far
        raise UserError(f"--teacher {teacher}: there is no finished {model}; train it first, with the same --out")
    return model


class Run:
    """One model of a recipe: what its stages read and write in the recipe's folder and in one of its own there.

    Args:
        settings: as ``resmlp_mt.recipe.read_recipe`` gives them. ``name`` is the run's folder; ``teacher``, if set,
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
        if "prepare" in stages:
            self.prepare()
        later = [stage for stage in STAGES[1:] if stage in stages]
        if not later:
            return
        if not (self.data_bin / f"dict.{self.source}.txt").exists():
            raise UserError(f"there is no {self.data_bin}: run the stage prepare first")
        self._refuse_other_data()
        self._refuse_long_sentences()
        bleu_of(self.target)  # that a tokeniser is not installed, or not for this language, is to be found now too
        if self.settings["tokenized_bleu"]:
            moses_tokenizer(self.target, "tokenized_bleu")
        self.folder.mkdir(exist_ok=True)
        with alone_in(self.folder):
            keep_settings(self.folder, {**self.settings, **self._taught_by()})
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
        if self.settings.get("teacher"):
            self._distil()

    def _distil(self) -> None:
        """Let a trained model translate the training set: sequence-level knowledge distillation (Kim and Rush, 2016).

        Its translations become the targets to train on, but for pairs that are too long for it, or of which it says
        nothing; the true ones stay to validate on. They are made once, and anew where the teacher is another; a student
        that is later decoded by another beam search keeps them.
        """
        teacher = self.settings["teacher"]
        folder, model = self.out / teacher, find_teacher(self.out, teacher)
        output, distilled, made = folder / "generate-train.txt", folder / "distilled", folder / "distilled.json"
        options = self.settings["generate"] | {"skip-invalid-size-inputs-valid-test": True}  # longer than A
        made_from = {"model_sha256": digest([model]), "generate": self.settings["generate"]}
        with alone_in(folder):
            before = json.loads(made.read_text(encoding="utf-8")) if made.exists() else {}
            if before.get("model_sha256") != made_from["model_sha256"] or not output.exists():
                remove(output)
                remove(distilled)
                write_json(made, made_from)
            references = read_lines(self.out / "text" / f"train.{self.target}")
            run_fairseq_generate(self.data_bin, model, output, "train", options)
            best = best_hypotheses(output)
            replace_train_targets(self.out, [best.get(i) or text for i, text in enumerate(references)], distilled)

    def _taught_by(self) -> dict[str, Any]:
        """Return what made the targets that are trained on, where a teacher did."""
        if not self.settings.get("teacher"):
            return {}
        if not self._train_data().exists():
            raise UserError(f"there is no {self._train_data()}: run the stage prepare first")
        return {"taught_by": json.loads((self.out / self.settings["teacher"] / "distilled.json").read_text("utf-8"))}

    def _train_data(self) -> Path:
        """Return the binary data that are trained on: the recipe's, or a teacher's translations of them."""
        teacher = self.settings.get("teacher")
        return self.out / teacher / "distilled" / "data-bin" if teacher else self.data_bin

    def train(self) -> None:
        """Train with fairseq-train, from the last checkpoint if there is one; train.log has all it says."""
        if is_trained(self.folder, self.settings["train"].get("max-update")):
            print("training: done before")
        else:
            self._refuse_other_devices()
            if left_out := self._left_out():
                print(f"{left_out:,} training pairs are longer than max-source-positions or max-target-positions allow")
            self._train()
        mend_checkpoints(self.folder / "checkpoints")
        (self.folder / "trained").touch()

    def _train(self) -> None:
        run_fairseq_train(self._train_data(), self.folder, self.train_options(), self.settings["matmul_precision"])

    def _devices(self) -> int:
        """Return how many devices train: those of torchrun, which fairseq would not count, or this machine's."""
        asked = os.environ.get("WORLD_SIZE") or self.settings["train"].get("distributed-world-size")
        return int(asked or self._gpus() or 1)

    def _gpus(self) -> int:
        """Return how many GPUs of this machine training may use: none where it is told to use the CPU."""
        return 0 if self.settings["train"].get("cpu") else torch.cuda.device_count()

    def _refuse_other_devices(self) -> None:
        """Find that a run was stopped within an epoch on another number of devices, which part an epoch otherwise."""
        whole = whole_checkpoints(self.folder / "checkpoints")
        if not whole:
            return
        state = read_checkpoint(whole[-1])
        before, now = state["cfg"]["distributed_training"]["distributed_world_size"], self._devices()
        if before != now and state["extra_state"]["train_iterator"]["iterations_in_epoch"]:
            raise UserError(
                f"{whole[-1]} was written within an epoch, on {before} devices, not {now}: go on with as many, or from "
                "the last whole epoch, by removing what is newer than its checkpoint"
            )

    def train_options(self) -> dict[str, Any]:
        """Settle the options of fairseq-train: those of the recipe, for as many devices as there are."""
        options = self.settings["train"]
        if "RANK" in os.environ:
            options = options | {
                "distributed-world-size": self._devices(),
                "distributed-rank": os.environ["RANK"],
                "device-id": os.environ.get("LOCAL_RANK", 0),  # a launcher of one process a machine may not set it
                "distributed-init-method": "env://",
                "distributed-no-spawn": True,
            }
        elif options.get("cpu"):
            options = options | {"distributed-world-size": self._devices()}  # by default as many as there are GPUs
        if effective := self.settings["effective_tokens"]:
            options = options | share_batch(effective, options["max-tokens"], self._devices())
        if options.get("fp16") and not (options.get("optimizer") in FLAT and self._gpus()):
            options = options | {"fp16-no-flatten-grads": True}
        return dict(options)

    def average(self) -> None:
        """Average the last checkpoints into model.pt: as many as give the best BLEU on the validation set.

        average.json says how many, and their BLEU.
        """
        self._must_exist("trained", "train")
        model, choice = self.folder / "model.pt", self.folder / "average.json"
        if not (model.exists() and choice.exists()):
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
        write_json(self.folder / "results.json", outcome | provenance(self.settings, self._prepared()))
        show_translations(sources, references, hypotheses)
        if warning := other_form(hypotheses, references, self.target):
            print(f"\n{warning}")

    def describe(self) -> dict[str, Any]:
        """Return what training took and gave: parameters, updates, devices, hours, bits a token, tokens a second.

        The last, target tokens, is fairseq's, by epoch; an epoch's time includes its validation and saving.
        """
        state = read_checkpoint(self.folder / "model.pt")  # the checkpoints may be gone by now
        valid_loss = read_curve(self.folder / "tensorboard" / "valid", "loss")
        tokens_per_second = read_curve(self.folder / "tensorboard" / "train", "wps")
        return {
            "parameters": count_parameters(state["model"]),
            "updates": state["optimizer_history"][-1]["num_updates"],
            "devices": state["cfg"]["distributed_training"]["distributed_world_size"],
            "hours": float(state["extra_state"]["previous_training_time"]) / 3600,  # several processes save a tensor
            "tokens_per_second": sum(tokens_per_second.values()) / len(tokens_per_second),
            "valid_loss": list(valid_loss.values())[-1],
            "best_valid_loss": min(valid_loss.values()),
        } | json.loads((self.folder / "average.json").read_text(encoding="utf-8"))

    def _prepared(self) -> dict[str, Any]:
        """Return the report of what the stage prepare has made."""
        report: dict[str, Any] = json.loads((self.out / "prepare.json").read_text(encoding="utf-8"))
        return report

    def _refuse_other_data(self) -> None:
        """Find that the data were prepared otherwise, where the stage prepare, which would tell, is not run."""
        prepared = self._prepared()["settings"]
        now = {key: self.settings[key] for key in ("vocab_size", "normalization")}
        now |= {"source_lang": self.source, "target_lang": self.target}
        now |= asdict(Rules(**self.settings["clean"]))
        data = self.settings["data"]  # prepare keeps whole paths
        now["data"] = prepared["data"] if prepared["data"] == str(Path(data).resolve()) else data
        for key, was, value in changed({key: prepared[key] for key in now}, now):
            or_else = f"give {same_data_or(key)}another --out"
            raise UserError(f"{self.out} was prepared with {key}={was}, not {value}; {or_else}")

    def _refuse_long_sentences(self) -> None:
        """Find before training, not after, that a sentence to translate does not fit into A."""
        for lang, (option, limit) in self._length_limits().items():
            for split in ("valid", "test"):
                longest = int(np.max(self._lengths(split, lang)))
                if longest > limit:
                    raise UserError(
                        f"a {split} sentence has {longest} tokens in {lang}, more than train.{option}={limit}; "
                        f"give train.{option}={longest}"
                    )

    def _left_out(self) -> int:
        """Count the training pairs that fairseq leaves out, since they do not fit into A."""
        limits = self._length_limits().items()
        return int(np.any([self._lengths("train", lang) > limit for lang, (_, limit) in limits], axis=0).sum())

    def _length_limits(self) -> dict[str, tuple[str, float]]:
        """Return, by language, the option that limits its sentences, and the most tokens of one."""
        train, defaults = self.settings["train"], argparse.Namespace()
        resmlp_mt.plugin.ARCH_CONFIG_REGISTRY[train["arch"]](defaults)
        limits = {}
        for lang, side in ((self.source, "source"), (self.target, "target")):
            option = f"max-{side}-positions"
            limit = train.get(option)
            if limit is None:
                limit = getattr(defaults, option.replace("-", "_"), None)
            if not (limit is None or str(limit).isdecimal()):
                raise UserError(f"train.{option}={limit} must be a positive integer")
            limits[lang] = option, int(limit) if limit else inf
        return limits

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
