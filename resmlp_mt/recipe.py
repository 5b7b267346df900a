"""Run a recipe from raw text to BLEU: ``python -m resmlp_mt.recipe recipes/multi30k/recipe.yaml``.

Prepare, train, average, generate, score. Each stage prints the command that it runs, is skipped when its output is
whole, and goes on where it was cut off: run the same command again after a kill.
"""

import argparse
import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import data_utils
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm  # type: ignore[import-untyped]
from yaml import YAMLError

from resmlp_core.files import UserError, alone_in, remove, replacing, reporting, write_json
from resmlp_mt.average import average_checkpoints
from resmlp_mt.host import run_fairseq
from resmlp_mt.pictures import draw_learning_curve, draw_matrices, read_curve
from resmlp_mt.prepare import prepare
from resmlp_mt.score import read_hypotheses, read_lines, score

PLUGIN = Path(__file__).parent
KEYS = ("pair", "data", "vocab_size", "average", "shown_positions", "train", "archs", "generate")
OWN_TRAIN_OPTIONS = {"save-dir", "tensorboard-logdir", "log-format", "user-dir"}
OWN_GENERATE_OPTIONS = {"path", "remove-bpe", "user-dir"}


def read_recipe(path: Path, overrides: Sequence[str], arch: str | None) -> dict[str, Any]:
    """Read a recipe and settle its options.

    Args:
        path: a YAML file; ``recipes/multi30k/recipe.yaml`` explains the keys.
        overrides: ``key=value``, such as ``train.max-epoch=3``. They win over the recipe and its architectures.
        arch: one of the recipe's ``archs``; the first by default.

    Returns:
        The settings, with ``arch`` set and its own options merged into ``train``.

    Raises:
        UserError: no such file, a key that is missing or unknown, an architecture that the recipe does not list, or
            an option that is the recipe command's own to set.
    """
    if not path.is_file():
        raise UserError(f"no recipe {path}")
    try:
        config: Any = OmegaConf.load(path)
        changes: Any = OmegaConf.from_dotlist(list(overrides))
    except YAMLError as error:
        raise UserError(f"{path} is not YAML, or an override is not: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig) or set(config) != set(KEYS):
        raise UserError(f"{path} must have the keys {', '.join(KEYS)}, and no others")
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or key.split(".")[0] not in config:
            raise UserError(f"{override!r} is not key=value with a key of {path}: {', '.join(map(str, config))}")
    archs = config.pop("archs")
    arch = arch or str(next(iter(archs)))
    if arch not in archs:
        raise UserError(f"--arch {arch} is not in {path}, which has {', '.join(map(str, archs))}")
    config.train = OmegaConf.merge(config.train, {"arch": arch}, archs[arch] or {})
    settings: Any = OmegaConf.to_container(OmegaConf.merge(config, changes))
    for stage, options in (("train", OWN_TRAIN_OPTIONS), ("generate", OWN_GENERATE_OPTIONS)):
        for option in options & settings[stage].keys():
            raise UserError(f"{stage}.{option} is not to be set: --out says where everything goes")
    return settings | {"arch": arch}


def arguments(*positional: object, **options: Any) -> list[str]:
    """Make a command line for fairseq; an option that is true is a flag, one that is false is left out."""
    line = [*map(str, positional), "--user-dir", str(PLUGIN)]
    for name, value in options.items():
        if value is not False:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line if torch.cuda.is_available() else [*line, "--cpu"]


def announce(program: str, line: Sequence[str]) -> None:
    """Print a command of fairseq's as one would type it."""
    print(f"\n$ fairseq-{program} {shlex.join(line)}", flush=True)


def mend_checkpoints(folder: Path) -> None:
    """Remove checkpoints that a kill cut short, and let the newest whole one be the last."""
    for path in folder.glob("*.pt"):
        if not zipfile.is_zipfile(path):  # fairseq copies checkpoint_last.pt in place; a zip's directory comes last
            path.unlink()
    last = folder / "checkpoint_last.pt"
    whole = sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
    if whole and not last.exists():
        with replacing(last) as partial:
            shutil.copy(whole[-1], partial)


def train(data_bin: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Train with fairseq-train in ``folder``, from its last checkpoint if there is one; train.log has all it says."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    mend_checkpoints(checkpoints)
    line = arguments(
        data_bin,
        **options,
        **{"save-dir": checkpoints, "tensorboard-logdir": folder / "tensorboard", "log-format": "json"},
    )
    announce("train", line)
    with open(folder / "train.log", "a", encoding="utf-8") as log:

        def follow(text: str) -> None:
            log.write(text)
            if found := re.search(r"\| (train_inner|valid) \| (\{.*\})$", text):
                print(describe_progress(json.loads(found[2])), flush=True)

        run_fairseq("train", line, follow)


def describe_progress(stats: Mapping[str, Any]) -> str:
    """Shorten what fairseq-train logs as JSON to a line for the screen."""
    if "valid_loss" in stats:
        return f"epoch {stats['epoch']:>3}  validation loss {stats['valid_loss']}"
    return (
        f"epoch {stats['epoch']:>3}  update {stats['num_updates']:>6}  loss {stats['loss']:>6}  "
        f"{float(stats['wps']):>8,.0f} tokens/s  learning rate {float(stats['lr']):.2g}"
    )


def newest_epochs(checkpoints: Path, count: int) -> list[Path]:
    """List the last ``count`` checkpoints of whole epochs, oldest first; the very last one where there are none."""
    epochs = sorted(checkpoints.glob("checkpoint[0-9]*.pt"), key=lambda path: int(path.stem.removeprefix("checkpoint")))
    return epochs[-count:] or [checkpoints / "checkpoint_last.pt"]


def generate(data_bin: Path, model: Path, output: Path, sentences: int, options: Mapping[str, Any]) -> None:
    """Translate the test set into ``output``, as fairseq-generate prints it; the rest goes to generate.log beside."""
    line = arguments(data_bin, **{"path": model, "remove-bpe": "sentencepiece"}, **options)
    announce("generate", line)
    with (
        replacing(output) as partial,
        open(partial, "w", encoding="utf-8") as file,
        open(output.with_suffix(".log"), "w", encoding="utf-8") as log,
        tqdm(total=sentences, unit=" sentences", disable=None, leave=False) as bar,
    ):

        def follow(text: str) -> None:
            (file if re.match(r"[A-Z]-\d+\t", text) else log).write(text)
            bar.update(text.startswith("S-"))

        run_fairseq("generate", line, follow)


def describe_run(folder: Path) -> dict[str, Any]:
    """Tell what a training run took: parameters, updates, hours, target tokens a second, losses (bits a token)."""
    state = torch.load(folder / "checkpoints" / "checkpoint_last.pt", map_location="cpu", weights_only=True)
    parameters = {w.data_ptr(): w.numel() for name, w in state["model"].items() if not name.endswith("version")}
    valid_loss = read_curve(folder / "tensorboard" / "valid", "loss")
    tokens_per_second = read_curve(folder / "tensorboard" / "train", "wps")
    return {
        "parameters": sum(parameters.values()),  # tied ones share their memory, and count once
        "updates": state["optimizer_history"][-1]["num_updates"],
        "hours": state["extra_state"]["previous_training_time"] / 3600,
        "tokens_per_second": sum(tokens_per_second.values()) / len(tokens_per_second),
        "valid_loss": list(valid_loss.values())[-1],
        "best_valid_loss": min(valid_loss.values()),
    }


def show_translations(sources: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Print five translations, spread over the test set, beside their sources and references."""
    for i in range(0, len(hypotheses), max(1, len(hypotheses) // 5))[:5]:
        print(f"\n  source      {sources[i]}\n  reference   {references[i]}\n  translation {hypotheses[i]}")


def show_table(out: Path) -> None:
    """Print one row for each architecture that has been scored in the folder of a recipe."""
    columns = ("arch", "parameters", "updates", "hours", "tokens/s", "valid loss", "BLEU", "lower-cased")
    print("\n" + "".join(f"{column:>12}" for column in columns))
    for path in sorted(out.glob("*/results.json")):
        r = json.loads(path.read_text(encoding="utf-8"))
        print(
            f"{path.parent.name:>12}{r['parameters']:>12,}{r['updates']:>12,}{r['hours']:>12.2f}"
            f"{r['tokens_per_second']:>12,.0f}{r['valid_loss']:>12.3f}{r['bleu']:>12.2f}{r['bleu_lowercase']:>12.2f}"
        )


def run_recipe(settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Run every stage of a recipe whose output is not whole yet.

    Args:
        settings: as ``read_recipe`` gives them.
        out: the folder for the data, with one folder in it for each architecture trained on them.

    Returns:
        The content of ``results.json``: scores with their signatures, and what the run took.

    Raises:
        UserError: a stage failed, a sentence does not fit, or ``out`` holds a run with other settings.
    """
    source, _, target = settings["pair"].partition("-")
    prepare(settings["data"], source, target, settings["vocab_size"], out)
    folder, data_bin = out / settings["arch"], out / "data-bin"
    refuse_long_sentences(data_bin, (source, target), settings["train"])
    folder.mkdir(exist_ok=True)
    trained, model, generated = folder / "trained", folder / "model.pt", folder / "generate.txt"
    sources, references = (read_lines(out / "text" / f"test.{lang}") for lang in (source, target))
    with alone_in(folder):
        keep_settings(folder, settings)
        if trained.exists():
            print("training: done before")
        else:
            train(data_bin, folder, settings["train"])
            trained.touch()
        if not model.exists():
            chosen = newest_epochs(folder / "checkpoints", settings["average"])
            with replacing(model) as partial:
                torch.save(average_checkpoints(chosen), partial)
            print(f"averaged {', '.join(path.name for path in chosen)} into {model}")
        if not generated.exists():
            generate(data_bin, model, generated, len(references), settings["generate"])
        draw_learning_curve(folder / "tensorboard", folder / "learning-curve.png", settings["arch"])
        if settings["arch"].startswith("resmlp"):
            weights = torch.load(model, map_location="cpu", weights_only=True)["model"]
            draw_matrices(weights, folder / "matrices.png", settings["shown_positions"])
        hypotheses = read_hypotheses(generated)
        outcome = score(hypotheses, references) | describe_run(folder)
        write_json(folder / "results.json", outcome)
    show_translations(sources, references, hypotheses)
    show_table(out)
    print(f"\nBLEU {outcome['bleu']:.2f}  {outcome['signature']}\nEverything is in {folder}")
    return outcome


def refuse_long_sentences(data_bin: Path, pair: tuple[str, str], options: Mapping[str, Any]) -> None:
    """Find before training, not after, that a sentence of the test set does not fit into A."""
    for lang, option in zip(pair, ("max-source-positions", "max-target-positions"), strict=True):
        dataset = data_utils.load_indexed_dataset(str(data_bin / f"test.{'-'.join(pair)}.{lang}"), None)
        longest = int(dataset.sizes.max())  # a view on the dataset's memory, which goes with the dataset
        if option in options and longest > options[option]:
            raise UserError(
                f"a test sentence has {longest} tokens in {lang}, more than train.{option}={options[option]}; "
                f"give train.{option}={longest}"
            )


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in its folder; with others than before, redo what follows training.

    Raises:
        UserError: the options of training have changed; nothing is mixed.
    """
    path = folder / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        before, now = earlier["train"], settings["train"]
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise UserError(
                    f"{folder} was started with train.{key}={before.get(key)}, not {now.get(key)}; "
                    "give another --out, or delete that folder"
                )
        if earlier["average"] != settings["average"]:
            remove(folder / "model.pt")
        if (earlier["average"], earlier["generate"]) != (settings["average"], settings["generate"]):
            remove(folder / "generate.txt")
    write_json(path, settings)


@reporting("recipe")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.recipe", description="Run a recipe, from text to BLEU.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.YAML")
    parser.add_argument("--data", help="a folder of text or parquet files, or a hub data set (default: the recipe's)")
    parser.add_argument("--pair", help="languages, such as en-fr (default: the recipe's)")
    parser.add_argument("--arch", help="one of the recipe's architectures (default: its first)")
    parser.add_argument("--out", type=Path, help="where everything goes (default: build/RECIPE/PAIR)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.max-epoch=3")
    args = parser.parse_intermixed_args()
    settings = read_recipe(args.recipe, args.overrides, args.arch)
    settings |= {key: getattr(args, key) for key in ("data", "pair") if getattr(args, key)}
    if isinstance(settings["data"], dict):  # one data set a pair
        if settings["pair"] not in settings["data"]:
            known = ", ".join(settings["data"])
            raise UserError(f"--pair {settings['pair']} has no data in {args.recipe}, which names {known}; give --data")
        settings["data"] = settings["data"][settings["pair"]]
    run_recipe(settings, args.out or Path("build", args.recipe.parent.name, settings["pair"]))


if __name__ == "__main__":
    main()
