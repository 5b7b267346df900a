"""The stages of a recipe, from raw text to BLEU: prepare, train, average, generate, score.

Each is skipped when its output is complete. After an interruption training goes on from its last checkpoint, and a
translation begins anew.
"""

import argparse
import filecmp
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from math import ceil, inf
from pathlib import Path
from typing import Any

import fairseq
import numpy as np
import torch
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.checkpoint import count_parameters, read_checkpoint, write_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, digest, remove, replacing, write_json
from resmlp_core.common.settings import changed
from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.plots import draw_matrices
from resmlp_mt.average import average_checkpoints
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.patches.unsupported import FLAT
from resmlp_mt.pipeline.fairseq_process import run_fairseq
from resmlp_mt.pipeline.learning_curve import draw_learning_curve, read_curve
from resmlp_mt.prepare import prepare, replace_train_targets, same_data_or
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

PLUGIN = Path(__file__).parents[1]
STAGES = ("prepare", "train", "average", "generate", "score")
# Options of fairseq-train that may change between the parts of a run that was cut off: no part of what is learnt.
FREE = {
    *("num-workers", "nprocs-per-node", "log-interval", "save-interval", "save-interval-updates"),
    *("keep-last-epochs", "keep-interval-updates", "keep-best-checkpoints"),
}
PACKAGES = ("torch", "numpy", "sentencepiece", "sacrebleu", "sacremoses", "datasets")


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
        folder, model = self.out / teacher, self.out / teacher / "model.pt"
        if not (folder / "average.json").exists():  # until then model.pt is the best candidate so far
            raise UserError(f"--teacher {teacher}: there is no finished {model}; train it first, with the same --out")
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
        return int(asked or torch.cuda.device_count() or 1)

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
        if effective := self.settings["effective_tokens"]:
            options = options | share_batch(effective, options["max-tokens"], self._devices())
        if options.get("fp16") and not (options.get("optimizer") in FLAT and torch.cuda.is_available()):
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
        scores = score(hypotheses, references, self.target)
        if tokenized := self.settings["tokenized_bleu"]:
            scores |= score_tokenized(hypotheses, references, self.target, tokenized == "split compounds")
        write_json(self.folder / "results.json", self.describe() | scores | self._provenance())
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

    def _provenance(self) -> dict[str, Any]:
        """Return what it takes to repeat the run."""
        prepared = json.loads((self.out / "prepare.json").read_text(encoding="utf-8"))
        return {
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "commit": commit(),
            "settings": self.settings,
            "seed": self.settings["train"].get("seed", 1),
            "train_pairs_too_long": self._left_out(),
            "data_sha256": prepared["text"]["sha256"],
            "vocabulary_sha256": prepared["sentencepiece"]["sha256"],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "fairseq": fairseq.__version__}
            | {name: installed_version(name) for name in PACKAGES},
        }

    def _refuse_other_data(self) -> None:
        """Find that the data were prepared otherwise, where the stage prepare, which would tell, is not run."""
        prepared = json.loads((self.out / "prepare.json").read_text(encoding="utf-8"))["settings"]
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
        ARCH_CONFIG_REGISTRY[train["arch"]](defaults)
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
        path = folder / f"{split}.{self.source}-{self.target}.{lang}"
        dataset = data_utils.load_indexed_dataset(str(path), None)
        return np.array(dataset.sizes)  # which are a view on the dataset's memory, and that goes with the dataset

    def _must_exist(self, name: str, stage: str) -> None:
        if not (self.folder / name).exists():
            raise UserError(f"there is no {self.folder / name}: run the stage {stage} first")


def installed_version(package: str) -> str | None:
    """The version of a package; None where it is not installed, as what a run did not need may not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source that this is run from, "-dirty" if it has changed; None where there is no history."""
    git = ["git", "-C", str(PLUGIN)]
    try:  # git would also tell of a repository in which this is only installed
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        line = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def share_batch(effective_tokens: int, max_tokens: int, devices: int) -> dict[str, int]:
    """Share one batch of target tokens among devices, each in as few steps as its memory allows.

    Args:
        effective_tokens: of one update, over all devices.
        max_tokens: the most that one device takes in one step.
        devices: their number.

    Returns:
        fairseq-train's ``max-tokens`` and ``update-freq``.
    """
    steps = ceil(effective_tokens / devices / max_tokens)
    return {"max-tokens": round(effective_tokens / devices / steps), "update-freq": steps}


def arguments(*positional: object, **options: Any) -> list[str]:
    """Make a command line for fairseq; an option that is true is a flag, one that is false or None is left out."""
    line = [*map(str, positional), "--user-dir", str(PLUGIN)]
    for name, value in options.items():
        if value is not False and value is not None:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line if torch.cuda.is_available() else [*line, "--cpu"]


def announce(program: str, line: Sequence[str]) -> None:
    """Print a command of fairseq's as one would type it."""
    print(f"\n$ fairseq-{program} {shlex.join(line)}", flush=True)


def whole_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that no kill cut short, the newest last."""
    # fairseq copies checkpoint_last.pt in place; a zip's directory comes last
    return sorted(filter(zipfile.is_zipfile, folder.glob("*.pt")), key=lambda path: path.stat().st_mtime)


def mend_checkpoints(folder: Path) -> None:
    """Remove checkpoints that a kill cut short, and let the newest whole one be the last."""
    whole = whole_checkpoints(folder)
    for path in set(folder.glob("*.pt")) - set(whole):
        path.unlink()
    last = folder / "checkpoint_last.pt"  # fairseq writes it after the others, so a kill may leave an earlier one
    if whole and whole[-1] != last and (not last.exists() or updates_of(last) < updates_of(whole[-1])):
        with replacing(last) as partial:
            shutil.copy(whole[-1], partial)


def is_trained(folder: Path, max_update: int | None) -> bool:
    """Whether the training of a folder has ended; fairseq itself, asked again at its last update, would do one more."""
    if (folder / "trained").exists():
        return True
    whole = whole_checkpoints(folder / "checkpoints")
    return max_update is not None and bool(whole) and 0 < max_update <= updates_of(whole[-1])


def updates_of(checkpoint: Path) -> int:
    """Return the number of updates after which fairseq wrote a checkpoint."""
    return int(read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"])


def run_fairseq_train(
    data_bin: Path, folder: Path, options: Mapping[str, Any], matmul_precision: str = "highest"
) -> None:
    """Train with fairseq-train in ``folder``, from its last checkpoint if there is one.

    Args:
        data_bin: what to train on.
        folder: for checkpoints and logs.
        options: of fairseq-train.
        matmul_precision: of float32 matrix products on a GPU; ``high`` is TF32.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    line = arguments(
        data_bin,
        **options,
        **{"save-dir": checkpoints, "tensorboard-logdir": folder / "tensorboard", "log-format": "json"},
    )
    tf32 = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": str(int(matmul_precision == "high"))}  # PyTorch reads it at its start
    keep_memory = not torch.cuda.is_available()
    if int(os.environ.get("RANK", 0)):
        return run_fairseq("train", line, lambda text: None, keep_memory, tf32)
    mend_checkpoints(checkpoints)
    announce("train", line)
    with open(folder / "train.log", "a", encoding="utf-8") as log:

        def follow(text: str) -> None:
            log.write(text)
            if found := re.search(r"\| (train_inner|valid) \| (\{.*\})$", text):
                print(describe_progress(json.loads(found[2])), flush=True)

        run_fairseq("train", line, follow, keep_memory, tf32)


def describe_progress(stats: Mapping[str, Any]) -> str:
    """Shorten what fairseq-train logs as JSON to a line for the screen."""
    if "valid_loss" in stats:
        return f"epoch {stats['epoch']:>3}  validation loss {stats['valid_loss']}"
    return (
        f"epoch {stats['epoch']:>3}  update {stats['num_updates']:>6}  loss {stats['loss']:>6}  "
        f"{float(stats['wps']):>8,.0f} tokens/s  learning rate {float(stats['lr']):.2g}"
    )


def newest_checkpoints(folder: Path, count: int) -> list[Path]:
    """List the last ``count`` checkpoints, oldest first, up to where training stopped.

    They are those of whole epochs; where a recipe keeps none, those of every so many updates.
    """
    kept = list(folder.glob("checkpoint[0-9]*.pt")) or list(folder.glob("checkpoint_[0-9]*_[0-9]*.pt"))
    kept.sort(key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))
    last = folder / "checkpoint_last.pt"
    stopped_within = not kept or not filecmp.cmp(last, kept[-1], shallow=False)  # else it is a copy
    return [*kept, *([last] if stopped_within else [])][-count:]


def run_fairseq_generate(data_bin: Path, model: Path, output: Path, subset: str, options: Mapping[str, Any]) -> None:
    """Translate ``train``, ``valid`` or ``test``, unless ``output`` is there.

    ``output`` gets what fairseq-generate prints of the sentences; the rest goes to a .log file beside it.
    """
    if output.exists():
        return
    line = arguments(data_bin, **{"path": model, "gen-subset": subset, "remove-bpe": "sentencepiece"}, **options)
    announce("generate", line)
    with (
        replacing(output) as partial,
        open(partial, "w", encoding="utf-8") as file,
        open(output.with_suffix(".log"), "w", encoding="utf-8") as log,
        tqdm(unit=" sentences", disable=None, leave=False) as bar,
    ):

        def follow(text: str) -> None:
            (file if re.match(r"[A-Z]-\d+\t", text) else log).write(text)
            bar.update(text.startswith("S-"))

        run_fairseq("generate", line, follow)


def show_translations(sources: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Print five translations, spread over the test set, beside their sources and references."""
    for i in range(0, len(hypotheses), max(1, len(hypotheses) // 5))[:5]:
        print(f"\n  source      {sources[i]}\n  reference   {references[i]}\n  translation {hypotheses[i]}")


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in its folder; with others than before, redo what follows training.

    Raises:
        UserError: what the model is trained on, or how, has changed; nothing is mixed. Or there are no checkpoints to
            average anew.
    """
    path = folder / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        for key, was, value in sorted(changed(trained_with(earlier), trained_with(settings))):
            raise UserError(
                f"{folder} was started with {key}={was}, not {value}; give another --out, or delete that folder"
            )
        if (earlier["average"], earlier["generate"]) != (settings["average"], settings["generate"]):
            if (folder / "model.pt").exists() and not whole_checkpoints(folder / "checkpoints"):
                raise UserError(
                    f"{folder / 'checkpoints'} is empty, so that average=... and generate... cannot change any more"
                )
            for name in ("average.json", "valid-*.txt", "generate.txt", "results.json"):
                for outdated in folder.glob(name):
                    remove(outdated)
    write_json(path, settings)


def trained_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make a trained model what it is, by the names that a user gives them."""
    train = {f"train.{key}": value for key, value in settings["train"].items() if key not in FREE}
    own = ("pair", "vocab_size", "clean", "effective_tokens", "taught_by", "matmul_precision")
    settings = {"matmul_precision": "highest", **settings}  # what a run was that does not say so
    return train | {key: settings.get(key) for key in own}
