"""Language models of the demo's German: ResMLP beside fairseq's transformer_lm, at equal dimensions and updates.

    python recipes/demo/grammar.py build/demo/corpus
    python recipes/demo/language_model.py build/demo/language-model [KEY=VALUE ...]

Each model is trained by fairseq-train and evaluated by fairseq-eval-lm, one sentence a sample. The table goes to
OUT/language_model.json too. Models that are done are skipped, so the command can be run again after a kill.
"""

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from resmlp_core.common.arguments import at_least
from resmlp_core.common.checkpoint import count_parameters, read_checkpoint
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import alone_in, replacing, write_json
from resmlp_core.common.settings import reading_settings
from resmlp_mt.pipeline.checkpoints import is_trained, updates_of
from resmlp_mt.pipeline.fairseq_commands import announce, arguments, run_fairseq_train
from resmlp_mt.pipeline.fairseq_process import run_fairseq
from resmlp_mt.pipeline.learning_curve import read_curve
from resmlp_mt.pipeline.settings import OWN_TRAIN_OPTIONS
from resmlp_mt.prepare import prepare

SENTENCES = {"sample-break-mode": "eos", "tokens-per-sample": 64, "num-workers": 0}
TRAIN: dict[str, Any] = {
    "task": "language_modeling",
    **SENTENCES,
    "share-decoder-input-output-embed": True,
    "optimizer": "adam",
    "adam-betas": "(0.9, 0.98)",
    "lr": 0.003,
    "lr-scheduler": "polynomial_decay",
    "warmup-updates": 300,
    "dropout": 0.1,
    "clip-norm": 1.0,
    "max-tokens": 1024,
    "seed": 1,
    "update-epoch-batch-itr": "True",
    "log-interval": 25,
    "no-epoch-checkpoints": True,
}
# The options of fairseq-train that differ. All have 4 layers, dimension 128, hidden 256.
MODELS: dict[str, dict[str, Any]] = {
    "resmlp_lm_tiny": {"arch": "resmlp_lm_tiny"},
    "resmlp_lm_tiny_plus": {
        "arch": "resmlp_lm_tiny",
        "pre-norm": "layer_norm",
        "position-convolution": 5,
    },
    "resmlp_lm_tiny_gated": {
        "arch": "resmlp_lm_tiny",
        "pre-norm": "layer_norm",
        "position-convolution": 5,
        "position-gates": True,
    },
    "transformer_lm": {
        "arch": "transformer_lm",
        "decoder-embed-dim": 128,
        "decoder-input-dim": 128,
        "decoder-output-dim": 128,
        "decoder-ffn-embed-dim": 256,
        "decoder-layers": 4,
        "decoder-attention-heads": 4,
        "decoder-normalize-before": True,  # as in all of fairseq's named sizes of it
    },
}


def monolingual(data_bin: Path, language: str, out: Path) -> Path:
    """Copy one side of binary parallel data under the names that fairseq's language_modeling reads."""
    folder = out / f"data-bin-{language}"
    if not folder.exists():
        with replacing(folder) as partial:
            partial.mkdir()
            shutil.copy(data_bin / f"dict.{language}.txt", partial / "dict.txt")
            for path in data_bin.glob(f"*.{language}.*"):
                if path.suffix in (".bin", ".idx"):
                    shutil.copy(path, partial / f"{path.name.split('.')[0]}{path.suffix}")
    return folder


def evaluate(data_bin: Path, model: Path, split: str, samples: Mapping[str, Any]) -> float:
    """Return the perplexity of a token that fairseq-eval-lm prints for ``valid`` or ``test``, cut into such samples."""
    line = arguments(data_bin, **{"path": model, "gen-subset": split}, **samples)
    announce("eval-lm", line)
    found: list[float] = []

    def follow(text: str) -> None:
        if "invalid sizes" in text:  # fairseq leaves them out
            raise UserError(f"{split} has sentences longer than tokens-per-sample={samples['tokens-per-sample']}")
        found.extend(map(float, re.findall(r"Perplexity: ([\d.]+)", text)))

    run_fairseq("eval_lm", line, follow)
    return found[-1]


def train_and_evaluate(data_bin: Path, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Train one model, from where it was cut off, evaluate it, and tell what that took and gave.

    Args:
        data_bin: as ``monolingual`` makes it.
        folder: where the model goes.
        options: of fairseq-train.

    Raises:
        UserError: the folder holds a model that was trained with other options.
    """
    settings, results = folder / "options.json", folder / "results.json"
    if settings.exists() and json.loads(settings.read_text(encoding="utf-8")) != options:
        raise UserError(f"{folder} was started with other options; give another OUT, or delete that folder")
    if results.exists():
        return json.loads(results.read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    with alone_in(folder):
        write_json(settings, options)
        if not is_trained(folder, options["max-update"]):
            run_fairseq_train(data_bin, folder, options)
        (folder / "trained").touch()
    last = folder / "checkpoints" / "checkpoint_last.pt"
    samples = {key: options[key] for key in SENTENCES}
    speeds = read_curve(folder / "tensorboard" / "train", "wps").values()
    outcome = {
        "parameters": count_parameters(read_checkpoint(last)["model"]),
        "updates": updates_of(last),
        "tokens_per_second": sum(speeds) / len(speeds),
        "threads": torch.get_num_threads(),
        **{f"{split}_perplexity": evaluate(data_bin, last, split, samples) for split in ("valid", "test")},
    }
    write_json(results, outcome)
    return outcome


@reporting("language_model")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train language models of the demo's German and compare them.")
    parser.add_argument("out", type=Path, help="where everything goes")
    parser.add_argument("--corpus", default="build/demo/corpus", help="what grammar.py wrote (default: %(default)s)")
    parser.add_argument("--updates", type=at_least(1), default=1000, help="for each model (default: %(default)s)")
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAME,...", help="those to train (default: all)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all of them, such as optimizer=muon")
    args = parser.parse_intermixed_args()
    with reading_settings("the command line", args.overrides):
        overrides: Any = OmegaConf.to_container(OmegaConf.from_dotlist(args.overrides))
    for option in OWN_TRAIN_OPTIONS & overrides.keys():
        raise UserError(f"{option} cannot be set: OUT decides where everything goes")
    names = args.models.split(",")
    if unknown := set(names) - MODELS.keys():
        raise UserError(f"--models {', '.join(sorted(unknown))} is none of {', '.join(MODELS)}")
    prepare(args.corpus, "en", "de", 3000, args.out)  # the translator's vocabulary
    data_bin = monolingual(args.out / "data-bin", "de", args.out)
    common = TRAIN | {"max-update": args.updates, "total-num-update": args.updates}  # where the rate has come to zero
    table = []
    for name in names:
        outcome = train_and_evaluate(data_bin, args.out / name, common | MODELS[name] | overrides)
        table.append({"model": name} | outcome)
    write_json(args.out / "language_model.json", table)
    columns = ("parameters", "updates", "tokens/s", "valid ppl", "test ppl")
    print(f"\n{'':<24}" + "".join(f"{column:>12}" for column in columns))
    for row in table:
        print(
            f"{row['model']:<24}{row['parameters']:>12,}{row['updates']:>12,}{row['tokens_per_second']:>12,.0f}"
            f"{row['valid_perplexity']:>12.2f}{row['test_perplexity']:>12.2f}"
        )


if __name__ == "__main__":
    main()
