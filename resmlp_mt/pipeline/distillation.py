"""Sequence-level knowledge distillation (Kim and Rush, 2016): a model is trained on another's translations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, digest, remove, write_json
from resmlp_mt.data.binary_stage import replace_train_targets
from resmlp_mt.data.generate_output import best_hypotheses
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.pipeline.fairseq_commands import run_fairseq_generate


def find_teacher(out: Path, teacher: str) -> Path:
    """Return the model of a finished run in a recipe's folder.

    Raises:
        UserError: there is none.
    """
    model = out / teacher / "model.pt"
    if not model.with_name("average.json").exists():  # until then model.pt is the best candidate so far
        raise UserError(f"--teacher {teacher}: there is no finished {model}; train it first, with the same --out")
    return model


def distil(out: Path, teacher: str, target: str, generate: Mapping[str, Any]) -> None:
    """Let a trained model translate the training set.

    Its translations become the targets to train on, but for pairs that are too long for it, or of which it says
    nothing; the true ones stay to validate on. They are made once, and anew where the teacher is another; a student
    that is later decoded by another beam search keeps them.

    Args:
        out: the recipe's folder, with its data prepared.
        teacher: the folder of a finished run in it.
        target: the language that is translated to.
        generate: options of fairseq-generate.

    Raises:
        UserError: there is no such run, or another process is at work in its folder.
    """
    folder, model = out / teacher, find_teacher(out, teacher)
    output, distilled, made = folder / "generate-train.txt", folder / "distilled", folder / "distilled.json"
    options = {**generate, "skip-invalid-size-inputs-valid-test": True}  # longer than A
    made_from = {"model_sha256": digest([model]), "generate": generate}
    with alone_in(folder):
        before = json.loads(made.read_text(encoding="utf-8")) if made.exists() else {}
        if before.get("model_sha256") != made_from["model_sha256"] or not output.exists():
            remove(output)
            remove(distilled)
            write_json(made, made_from)
        references = read_lines(out / "text" / f"train.{target}")
        run_fairseq_generate(out / "data-bin", model, output, "train", options)
        best = best_hypotheses(output)
        replace_train_targets(out, [best.get(i) or text for i, text in enumerate(references)], distilled)


def distilled_data(out: Path, teacher: str) -> Path:
    """Return where the binary data with a teacher's translations are."""
    return out / teacher / "distilled" / "data-bin"


def made_by(out: Path, teacher: str) -> dict[str, Any]:
    """Return what made a teacher's translations: the digest of its model and the options that it translated with.

    Raises:
        UserError: there are none.
    """
    if not distilled_data(out, teacher).exists():
        raise UserError(f"there is no {distilled_data(out, teacher)}: run the stage prepare first")
    made: dict[str, Any] = json.loads((out / teacher / "distilled.json").read_text(encoding="utf-8"))
    return made
