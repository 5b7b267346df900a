"""Parallel text in, fairseq's binary data out: ``python -m resmlp_mt.prepare --help``."""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import resmlp_mt.plugin  # noqa: F401  fairseq as the plugin mends it
from resmlp_core.common.devices import available_cores, gigabytes
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import alone_in, remove, write_json
from resmlp_core.common.settings import changed
from resmlp_mt.data.binary_stage import write_data_bin
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.corpus import count_bytes, fingerprint
from resmlp_mt.data.normalization import NORMALIZATIONS
from resmlp_mt.data.prepared import SPECIAL, Settings
from resmlp_mt.data.text_stage import EMPTY_SIDES, write_text
from resmlp_mt.data.vocabulary_stage import VOCABULARY_SENTENCES, learn_vocabulary

OUTPUT_RATIO = 2  # what the folder holds at most is 1.57 times the text's bytes, measured


@dataclass(frozen=True)
class Stage:
    """One step: the settings that decide it, its outputs, and what makes them and returns its report and a summary."""

    settings: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Settings, Path, int, dict[str, Any]], tuple[dict[str, Any], str]]


def prepare(
    data: str | Path,
    source_lang: str,
    target_lang: str,
    vocab_size: int,
    out: str | Path,
    *,
    rules: Rules = EMPTY_SIDES,
    seed: int = 1,
    normalization: str = NORMALIZATIONS[0],
    workers: int | None = None,
) -> dict[str, Any]:
    """Make ``out`` a folder to train on: text/, sentencepiece.model and .vocab, data-bin/ and prepare.json.

    What is already there and whole is kept, so that an interrupted run goes on where it was. The same input gives the
    same bytes, whatever the number of workers.

    Args:
        data: a folder or a data set on the hub, as for ``resmlp_mt.data.corpus.read_pairs``.
        source_lang: the language to translate from, as the data call it.
        target_lang: the language to translate to.
        vocab_size: entries of the joint vocabulary, counting fairseq's four special ones.
        out: the folder to make or to complete.
        rules: which training pairs to leave out; validation and test stay as they are.
        seed: picks the sentences that the vocabulary is learned from when there are more than a million.
        normalization: what sentencepiece makes of the characters. NFKC writes … as three points and full-width
            punctuation as ASCII's, so that no translation has the former; ``identity`` keeps all.
        workers: threads to encode with; by default as many as there are cores at hand.

    Returns:
        The content of prepare.json: the settings and, by stage, the pairs per split, read, kept and dropped by rule,
        the vocabulary and the tokens. The text's ``sha256`` is that of what was written, as ``cat text/* | sha256sum``
        gives it, so it identifies the data whatever they were read from; ``source_sha256`` is that of the files read,
        None for a data set on the hub.

    Raises:
        UserError: for data or settings that cannot be used, when ``out`` was prepared with other settings or other
            data, or when its disk is too full for the corpus.
        OSError: when a file cannot be read or written; nothing half-written stays behind.
    """
    refuse_unusable_name(out, "--out")
    workers = workers if workers is not None else available_cores()
    if workers < 1:
        raise UserError(f"--workers {workers} is less than 1")
    for option, language in (("--source-lang", source_lang), ("--target-lang", target_lang)):
        if "-" in language:
            raise UserError(
                f"{option} {language}: fairseq takes the hyphen for the end of the name; write _, in the data too"
            )
    if vocab_size <= SPECIAL:
        raise UserError(f"vocab_size={vocab_size} leaves no entry beside fairseq's {SPECIAL} special ones")
    where = str(Path(data).resolve()) if Path(data).exists() else str(data)
    refuse_other_than_utf8(where, "--data")
    settings = Settings(
        data=where,
        source_lang=source_lang,
        target_lang=target_lang,
        vocab_size=vocab_size,
        seed=seed,
        normalization=normalization,
        **asdict(rules),
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        report = _earlier_report(out, settings)
        whole = [name in report and all((out / path).exists() for path in STAGES[name].outputs) for name in STAGES]
        done = whole.index(False) if False in whole else len(whole)
        for name in list(STAGES)[:done]:
            print(f"{name}: done before")
        for name in list(STAGES)[done:]:  # what follows a stage that is to be done was made from its earlier output
            report.pop(name, None)
        if not done:
            _refuse_small_disk(settings, out)
        write_json(out / "prepare.json", report)
        for name, stage in islice(STAGES.items(), done, None):
            started = time.perf_counter()
            report[name], summary = stage.run(settings, out, workers, report)
            report["settings"] |= {key: getattr(settings, key) for key in stage.settings}
            write_json(out / "prepare.json", report)
            print(f"{name}: {summary} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"{out} is ready", flush=True)
    return report


def refuse_unusable_name(path: str | Path, option: str) -> None:
    """Find before any work that fairseq will not take a path, which ``option`` names.

    Raises:
        UserError: it begins with a hyphen, has ``${`` or ``\\'``, which mean something to fairseq's configuration, or
            is not UTF-8.
    """
    name = str(path)
    if name.startswith("-"):
        raise UserError(f"{option} {name}: fairseq takes it for an option; give the whole path")
    if found := next((what for what in ("${", "\\'") if what in name), ""):
        raise UserError(f"{option} {name}: fairseq's configuration gives {found} a meaning; choose another name")
    refuse_other_than_utf8(name, option)


def refuse_other_than_utf8(path: str, option: str) -> None:
    """Refuse a path that no report could hold."""
    shown = path.encode("utf-8", "replace").decode()
    if shown != path:
        raise UserError(f"{option} {shown}: the name is not UTF-8; choose another")


def _earlier_report(out: Path, settings: Settings) -> dict[str, Any]:
    """Read what an earlier run left, if it can be continued with these settings."""
    path = out / "prepare.json"
    if not path.exists():
        for output in (output for stage in STAGES.values() for output in stage.outputs):
            if (out / output).exists():
                raise UserError(f"{out / output} was not made by prepare: give --out a folder of its own")
        return {"settings": {}}
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        earlier = dict(report["settings"].items())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path} is not a report of prepare's: remove {out}, or choose another --out") from None
    now = asdict(settings)
    made_of = report.get("text", {}).get("source_sha256")
    corpus = (settings.data, settings.source_lang, settings.target_lang)
    moved = earlier.get("data") != settings.data and holds_corpus_of(report, *corpus)  # with all of its project, say
    if moved:
        report["settings"]["data"] = earlier["data"] = settings.data
    for key, was, value in changed(earlier, {key: now.get(key) for key in earlier}):
        if was == str(Path(settings.data).resolve()):  # it is no folder any more, and not of the hub
            raise UserError(f"there is no folder {was}, from which {out} was prepared")
        raise prepared_otherwise(out, key, was, value)
    if made_of and not moved and made_of != fingerprint(*corpus):
        raise UserError(f"--data {settings.data} has changed since {out} was prepared from it: choose another --out")
    return report


def holds_corpus_of(report: Mapping[str, Any], data: str, source_lang: str, target_lang: str) -> bool:
    """Whether a folder holds the very corpus that the report of prepare's tells of, which is read for that.

    Raises:
        UserError: a split is missing.
    """
    made_of = report.get("text", {}).get("source_sha256")
    return bool(made_of) and Path(data).is_dir() and fingerprint(data, source_lang, target_lang) == made_of


def prepared_otherwise(out: Path, key: str, was: Any, value: Any) -> UserError:
    """Return the error for a folder that was prepared with another value of a setting."""
    remedy = "the same --data, or another --out" if key == "data" else "another --out"
    return UserError(f"{out} was prepared with {key}={was}, not {value}; give {remedy}")


def _refuse_small_disk(settings: Settings, out: Path) -> None:
    """Find before hours of work, not after, that the disk has no room for what the corpus becomes."""
    size = count_bytes(settings.data, settings.source_lang, settings.target_lang)
    remove(out / "text.partial")  # of a killed run: it would be removed anyway, and is no longer in the way
    free = shutil.disk_usage(out).free
    if size and free < OUTPUT_RATIO * size:
        needed, left = gigabytes(OUTPUT_RATIO * size), gigabytes(free)
        raise UserError(f"--out {out}: needs about {needed}, {left} are free")


RULES = tuple(field.name for field in fields(Rules))
STAGES = {
    "text": Stage(("data", "source_lang", "target_lang", *RULES), ("text",), write_text),
    "sentencepiece": Stage(
        ("vocab_size", "seed", "normalization"), ("sentencepiece.model", "sentencepiece.vocab"), learn_vocabulary
    ),
    "data-bin": Stage((), ("data-bin",), write_data_bin),
}


@reporting("prepare")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m resmlp_mt.prepare",
        description="Learn a joint vocabulary for a parallel corpus and make the corpus binary for fairseq-train.",
        epilog="The same command again continues an interrupted run.",
    )
    parser.add_argument(
        "--data",
        required=True,
        help="folder with {train,valid,test} as .{LANG} text, .tsv, .csv, .jsonl or .parquet, all but the last "
        "also .gz; or a data set of the hub: owner/name or owner/name:config",
    )
    parser.add_argument("--source-lang", required=True, metavar="LANG", help="language to translate from")
    parser.add_argument("--target-lang", required=True, metavar="LANG", help="language to translate to")
    parser.add_argument("--vocab-size", required=True, type=int, metavar="N", help="entries of the joint vocabulary")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make, or to complete")
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help=f"draws the sentences to learn the vocabulary from, if over {VOCABULARY_SENTENCES:,} (default: 1)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads to encode with (default: one per core)")
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        default=NORMALIZATIONS[0],
        help="how characters are normalised; identity keeps …, ½ and full-width punctuation (default: %(default)s)",
    )
    cleaning = parser.add_argument_group(
        "cleaning", "which training pairs to leave out, beside those with an empty side"
    )
    cleaning.add_argument("--max-words", type=int, metavar="N", help="with more than N words on a side")
    cleaning.add_argument("--max-chars", type=int, metavar="N", help="with more than N characters on a side")
    cleaning.add_argument(
        "--max-ratio", type=float, metavar="R", help="with more than R words on a side for each on the other"
    )
    for name, what in (
        ("identical", "whose sides are equal, capitals aside"),
        ("bad-encoding", "with U+FFFD, control characters, or UTF-8 that was read as Windows-1252"),
        ("duplicates", "that an earlier one equals"),
    ):
        cleaning.add_argument(f"--drop-{name}", action="store_true", help=what)
    args = vars(parser.parse_args(argv))
    rules = Rules(**{name: args.pop(name) for name in RULES})
    prepare(**args, rules=rules)


if __name__ == "__main__":
    main()
