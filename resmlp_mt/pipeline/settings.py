"""The settings of a recipe: read from YAML and the command line, and refused where they cannot be meant."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from resmlp_core.common.errors import UserError
from resmlp_core.common.settings import reading_settings
from resmlp_core.inspect.report import SHOWN_POSITIONS
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.normalization import NORMALIZATIONS
from resmlp_mt.plugin import ARCH_CONFIG_REGISTRY

TOKENIZED = (None, "moses", "split compounds")
PRECISIONS = ("highest", "high")
OWN_TRAIN_OPTIONS = {"save-dir", "checkpoint-suffix", "tensorboard-logdir", "log-format", "user-dir"}
RESTARTS = {
    *("restore-file", "reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader"),
    *("no-save", "no-last-checkpoints", "no-save-optimizer-state"),
}
COUNTS = (  # options of fairseq-train that a recipe counts by itself
    *("max-update", "max-epoch", "validate-interval", "validate-interval-updates"),
    *("save-interval", "save-interval-updates", "keep-last-epochs", "keep-interval-updates", "keep-best-checkpoints"),
    "distributed-world-size",
)
MOST_SEED = 2**31 - 1  # fairseq adds epochs and updates to it, and NumPy takes 32 bits
OWN_GENERATE_OPTIONS = {"path", "gen-subset", "remove-bpe", "results-path", "quiet", "user-dir"}


@dataclass
class Recipe:
    """The keys of a recipe.

    Args:
        pair: the languages, such as ``en-de``.
        data: a folder of text or parquet files, or a data set of the hub; or a mapping from pairs to these; null leaves
            it to ``--data``.
        vocab_size: entries of the joint vocabulary.
        average: how many of the last checkpoints to average; if these are several numbers, validation BLEU picks one.
        train: options of fairseq-train.
        archs: the choices for ``--arch``, each with the options of fairseq-train that differ for it.
        generate: options of fairseq-generate.
        shown_positions: how many positions of A the pictures show, from the first.
        clean: which training pairs to leave out.
        normalization: how sentencepiece normalises characters: ``nmt_nfkc`` writes … as three points and full-width
            punctuation as ASCII's, ``identity`` keeps all.
        effective_tokens: the most target tokens of an update, over all devices; null leaves it to ``train``.
        tokenized_bleu: a BLEU to report beside sacreBLEU's: on Moses's tokens (``moses``), or on these with German
            compounds split (``split compounds``).
        data_script: a script beside the recipe, which is run to write the folder ``data`` if that is not there; the
            folder is its argument.
        matmul_precision: of float32 matrix products in training on a GPU, as ``torch.set_float32_matmul_precision``
            names it: ``highest``, or ``high``, which is TF32.
    """

    pair: str = MISSING
    data: Any = None
    vocab_size: int = MISSING
    average: Any = MISSING
    train: dict[str, Any] = MISSING
    archs: dict[str, Any] = MISSING
    generate: dict[str, Any] = MISSING
    shown_positions: int = SHOWN_POSITIONS
    clean: Rules = field(default_factory=Rules)
    normalization: str = NORMALIZATIONS[0]
    effective_tokens: int | None = None
    tokenized_bleu: str | None = None
    data_script: str | None = None
    matmul_precision: str = PRECISIONS[0]


def read_recipe(
    path: Path, overrides: Sequence[str], arch: str | None, more_archs: Path | None = None
) -> dict[str, Any]:
    """Read a recipe and settle its options.

    Args:
        path: a YAML file with the keys of ``Recipe``.
        overrides: ``key=value``, such as ``train.max-update=3000``. They win over the recipe and its architectures.
        arch: one of the recipe's ``archs``; the first by default.
        more_archs: a YAML file of further ``archs``, each a name and options of fairseq-train. They may name an
            ``arch`` of fairseq's, else the name is it.

    Returns:
        The settings, ``average`` as a list, with ``name`` set to the architecture and its own options merged into
        ``train``.

    Raises:
        UserError: no such file, a key that is missing or unknown or has a value of another kind, an architecture that
            the recipe does not list, or an option that is the recipe command's own to set.
    """
    with reading_settings(path, overrides, where=f"{path}, or an override: "):
        for override in overrides:
            if override.startswith("archs."):
                raise UserError(f"{override} is not for the command line: give train.KEY=VALUE")
        config: Any = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.load(path))
        if missing := OmegaConf.missing_keys(config):
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
        archs: Any = OmegaConf.merge(config.archs, OmegaConf.load(more_archs) if more_archs else {})
        if not archs or not all(options is None or OmegaConf.is_dict(options) for options in archs.values()):
            raise UserError(f"{path}: archs must have a name for each architecture, and under it options or nothing")
        arch = str(next(iter(archs))) if arch is None else arch
        if arch not in archs:
            raise UserError(f"--arch {arch} is not in {path}, which has {', '.join(map(str, archs))}")
        config.train = OmegaConf.merge(config.train, {"arch": arch}, archs[arch] or {})
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        settings: Any = OmegaConf.to_container(config, resolve=True)
        Rules(**settings["clean"])
    del settings["archs"]
    if not isinstance(settings["average"], list):
        settings["average"] = [settings["average"]]
    check_values(settings)
    return settings | {"name": arch}


def check_values(settings: dict[str, Any]) -> None:
    """Raise a UserError for a value of the right kind that cannot be meant."""
    for key in ("vocab_size", "shown_positions", "effective_tokens"):
        if settings[key] is not None and settings[key] <= 0:  # the dataclass lets only effective_tokens be None
            raise UserError(f"{key}={settings[key]} must be a positive integer")
    counts = settings["average"]
    if not counts or not all(type(count) is int and count > 0 for count in counts):
        raise UserError(f"average={counts} must be a positive integer")
    choices = {"tokenized_bleu": TOKENIZED, "normalization": NORMALIZATIONS, "matmul_precision": PRECISIONS}
    for key, known in choices.items():
        if settings[key] not in known:
            raise UserError(f"{key}={settings[key]} is none of {', '.join(filter(None, known))}")
    for stage, options in (("train", OWN_TRAIN_OPTIONS), ("generate", OWN_GENERATE_OPTIONS)):
        for option in options & settings[stage].keys():
            raise UserError(f"{stage}.{option} cannot be set: a recipe decides what goes where, by --out")
        seed = settings[stage].get("seed", 1)
        if type(seed) is not int or not 0 <= seed <= MOST_SEED:
            raise UserError(f"{stage}.seed={seed} must be an integer from 0 to {MOST_SEED}")
    check_train(settings["train"], settings["effective_tokens"])


def check_train(train: Mapping[str, Any], effective_tokens: int | None) -> None:
    """Raise a UserError for options of fairseq-train by which a run could not resume, share its batches or report."""
    for option in sorted(RESTARTS & train.keys()):
        raise UserError(
            f"train.{option}: a run that was interrupted would begin anew; train.finetune-from-model=FILE starts a "
            "recipe from another model"
        )
    if effective_tokens and not (type(train.get("max-tokens")) is int and train["max-tokens"] > 0):
        raise UserError("effective_tokens needs train.max-tokens, the most that a device takes at once, as an integer")
    if effective_tokens and train.get("update-freq") is not None:
        raise UserError("train.update-freq follows from effective_tokens; give effective_tokens=null beside it")
    for option in ("disable-validation", "validate-after-updates"):
        if train.get(option):
            raise UserError(f"train.{option}: a recipe reports the validation loss")
    for option in COUNTS:
        if not isinstance(train.get(option), int | None):
            raise UserError(f"train.{option}={train[option]!r} must be an integer, without quotation marks")
    for option in ("validate-interval", "save-interval"):
        epochs, interval = train.get("max-epoch"), train.get(option)
        if epochs and interval and epochs % interval:
            raise UserError(
                f"train.{option}={interval} leaves out the last of train.max-epoch={epochs} epochs, whose weights and "
                "validation loss a recipe reports"
            )
    for option in ("eval-bleu-args", "eval-bleu-detok-args"):
        if not is_json_object(train.get(option) or {}):
            raise UserError(f'train.{option}={train[option]} must be a JSON object, such as {{"beam": 4}}')
    if str(train["arch"]) not in ARCH_CONFIG_REGISTRY:
        raise UserError(f"train.arch={train['arch']} is not an architecture of fairseq's or of this plugin")


def is_json_object(value: Any) -> bool:
    """Whether an option's value is a mapping of YAML's, or JSON's text of one."""
    try:
        return isinstance(json.loads(value) if isinstance(value, str) else value, dict)
    except ValueError:
        return False


def choose_data(settings: dict[str, Any], pair: str | None, data: str | None) -> None:
    """Settle which corpus a recipe is for.

    Args:
        settings: the recipe's; its ``data`` may have one data set for each pair.
        pair: the languages asked for, such as ``en-fr``, in place of the recipe's.
        data: a folder or a data set of the hub, in place of the recipe's.

    Raises:
        UserError: the pair is none, or the recipe has no data for it, or what it has is no name.
    """
    settings |= {key: value for key, value in (("pair", pair), ("data", data)) if value}
    if not re.fullmatch("[^-]+-[^-]+", settings["pair"]):
        raise UserError(
            f"--pair {settings['pair']}: two languages with a hyphen between them, as in en-de or en-pt_br, are needed"
        )
    if isinstance(settings["data"], dict):
        if settings["pair"] not in settings["data"]:
            known = ", ".join(settings["data"])
            raise UserError(f"--pair {settings['pair']} has no data in the recipe, which names {known}; give --data")
        settings["data"] = settings["data"][settings["pair"]]
    if settings["data"] is None:
        raise UserError("the recipe names no data; give --data")
    if not isinstance(settings["data"], str):
        raise UserError(f"data={settings['data']} is neither a folder nor a data set of the hub")
