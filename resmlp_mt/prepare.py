"""Parallel text in, fairseq's binary data out: ``python -m resmlp_mt.prepare --help``."""

import argparse
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import compress, islice
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, TextIO

import sentencepiece
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import alone_in, digest, remove, replacing, write_json
from resmlp_core.common.settings import changed
from resmlp_mt.data.binarized import write_dataset
from resmlp_mt.data.cleaning import Duplicates, Rules
from resmlp_mt.data.corpus import count_bytes, count_pairs, fingerprint, read_pairs

SPLITS = ("valid", "test", "train")  # the small ones first, so that what is wrong with the data shows at once
VOCABULARY_SENTENCES = 1_000_000  # a larger corpus is sampled: memory stays bounded, and more would change little
EMPTY_SIDES = Rules()  # a pair with an empty side is left out under any rules, and under these no other
BATCH = 10_000  # sentences encoded at a time
INT_MAX = 2**31 - 1  # sentencepiece tells of a vocabulary that is too large only up to here
SPECIAL = 4  # entries of fairseq's own
OUTPUT_RATIO = 2  # what the folder holds at most is 1.57 times the text's bytes, measured
# sentencepiece's NFKC, as fairseq's users have it, or none; both make one kind of all white space, at which fairseq,
# which reads pieces with spaces between, would part a piece
NORMALIZATIONS = ("nmt_nfkc", "identity")
BAR: dict[str, Any] = {"unit": " pairs", "unit_scale": True, "disable": None, "leave": False}


@dataclass(kw_only=True)
class Settings(Rules):
    """What decides the content of a prepared folder, the rules for its training pairs included."""

    data: str
    source_lang: str
    target_lang: str
    vocab_size: int
    seed: int = 1
    normalization: str = NORMALIZATIONS[0]


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
        workers: threads to encode with; as many as there are processors when None.

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
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UserError(f"--workers {workers} is less than 1")
    for option, language in (("--source-lang", source_lang), ("--target-lang", target_lang)):
        if "-" in language:
            raise UserError(f"{option} {language}: fairseq takes the hyphen for the end of the name; write _ for it")
    if vocab_size <= SPECIAL:
        raise UserError(f"--vocab-size {vocab_size} leaves no entry beside fairseq's {SPECIAL} special ones")
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
    for key, was, value in changed(earlier, {key: now.get(key) for key in earlier}):
        if was == str(Path(settings.data).resolve()):  # it is no folder any more, and not of the hub
            raise UserError(f"there is no folder {was}, from which {out} was prepared")
        option = "--" + key.replace("_", "-")
        raise UserError(f"{out} was prepared with {option} {was}, not {value}: give {same_data_or(key)}another --out")
    made_of = report.get("text", {}).get("source_sha256")
    if made_of and made_of != fingerprint(settings.data, settings.source_lang, settings.target_lang):
        raise UserError(f"--data {settings.data} has changed since {out} was prepared from it: choose another --out")
    return report


def same_data_or(key: str) -> str:
    """Say, where a folder was prepared with another setting, what else than another folder may be meant."""
    return "the same --data, or " if key == "data" else ""


def _refuse_small_disk(settings: Settings, out: Path) -> None:
    """Find before hours of work, not after, that the disk has no room for what the corpus becomes."""
    size = count_bytes(settings.data, settings.source_lang, settings.target_lang)
    remove(out / "text.partial")  # of a killed run: it would be removed anyway, and is no longer in the way
    free = shutil.disk_usage(out).free
    if size and free < OUTPUT_RATIO * size:
        needed, left = (tqdm.format_sizeof(number) + "B" for number in (OUTPUT_RATIO * size, free))
        raise UserError(f"--out {out}: needs about {needed}, {left} are free")


def _text(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Write the pairs as text/{split}.{language}, less the train pairs that break a rule."""
    source_sha256 = fingerprint(settings.data, settings.source_lang, settings.target_lang)
    with replacing(out / "text") as partial:
        partial.mkdir()
        counts: dict[str, Any] = {split: _write_split(settings, split, partial) for split in SPLITS}
        sha256 = digest(sorted(partial.iterdir()))
    sizes = ", ".join(f"{split} {counts[split]['kept']}" for split in ("train", "valid", "test"))
    dropped = ", ".join(f"{number} {rule}" for rule, number in counts["train"]["dropped"].items())
    counts |= {"sha256": sha256, "source_sha256": source_sha256}
    return counts, f"{sizes} pairs; left out of train: {dropped or 'none'}"


def _write_split(settings: Settings, split: str, folder: Path) -> dict[str, Any]:
    corpus = (settings.data, settings.source_lang, settings.target_lang, split)
    paths = [folder / f"{split}.{language}" for language in (settings.source_lang, settings.target_lang)]
    cleaned = split == "train"  # the references of valid and test stay as they are: a score is over all of them
    rules: Rules = settings if cleaned else EMPTY_SIDES
    seen_as = normalizer(settings.normalization)
    dropped: Counter[str] = Counter()
    read = usable = 0
    with ExitStack() as stack:
        duplicates = None
        if cleaned and settings.drop_duplicates:
            digests = TemporaryDirectory(dir=folder, prefix="digests")
            duplicates = Duplicates(Path(stack.enter_context(digests)))
        pairs = read_pairs(*corpus, mend_encoding=cleaned and settings.drop_bad_encoding)
        bar = tqdm(pairs, f"reading {split}", count_pairs(*corpus), **BAR)
        with _create(paths[0]) as sources, _create(paths[1]) as targets:
            for pair in bar:
                read += 1
                seen = (seen_as(pair[0]), seen_as(pair[1]))
                broken = rules.broken_by(pair, seen)
                usable += not broken
                if cleaned and broken:
                    dropped[broken] += 1
                    continue
                if duplicates:
                    duplicates.add(*seen)
                sources.write(pair[0] + "\n")
                targets.write(pair[1] + "\n")
        if duplicates:
            again = duplicates.find()
            dropped["duplicates"] = int(again.sum())
            for path in paths:
                with replacing(path) as partial, _create(partial) as file, _open(path) as lines:
                    file.writelines(compress(lines, ~again))
    if not usable:
        raise UserError(f"--data {settings.data}: {split} has no pair with text on both sides, or none that is kept")
    return {"read": read, "kept": read - dropped.total(), "dropped": dict(dropped)}


def normalizer(normalization: str) -> Callable[[str], str]:
    """Make what turns a text into what a model sees of it: as sentencepiece normalises it, by one of NORMALIZATIONS."""
    normalize = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", escape_whitespaces=False).normalize

    def seen(text: str) -> str:
        if normalization == "identity" or (text.isascii() and text.isprintable()):  # sentencepiece is slower by far
            return " ".join(text.replace("▁", " ").split())  # its own sign for white space
        return normalize(text).strip()

    return seen


def _sentencepiece(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Learn one vocabulary for both languages. Its ids are fairseq's, special symbols included."""
    model = io.BytesIO()
    try:
        with _ctrl_c_ends_the_process(), _normalization(settings.normalization) as normalization:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_vocabulary_sentences(settings, out, report["text"]["train"]["kept"]),
                model_writer=model,
                model_type="bpe",
                vocab_size=min(settings.vocab_size, INT_MAX),
                character_coverage=1.0,
                max_sentence_length=1 << 20,  # bytes; a longer line is left out
                **normalization,
                # The numbers and names of fairseq's own: no piece that is learned can then take one of these names.
                bos_id=0,
                pad_id=1,
                eos_id=2,
                unk_id=3,
                minloglevel=2,
            )
    except RuntimeError as error:
        raise UserError(_vocabulary_error(settings.vocab_size, str(error))) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with replacing(out / "sentencepiece.model") as partial:
        partial.write_bytes(model.getvalue())
    with replacing(out / "sentencepiece.vocab") as partial, _create(partial) as file:
        file.writelines(f"{piece}\t{processor.get_score(i):g}\n" for i, piece in enumerate(_pieces(processor)))
    sha256 = hashlib.sha256(model.getvalue()).hexdigest()
    return {"vocabulary": len(processor), "sha256": sha256}, f"{len(processor)} entries"


def _vocabulary_sentences(settings: Settings, out: Path, pairs: int) -> Iterator[str]:
    chance = VOCABULARY_SENTENCES / (2 * pairs)
    draw = random.Random(settings.seed).random
    for language in sorted((settings.source_lang, settings.target_lang)):  # so that both directions share a vocabulary
        with _open(out / "text" / f"train.{language}") as text:
            yield from (line.removesuffix("\n") for line in text if chance >= 1 or draw() < chance)


@contextmanager
def _normalization(name: str) -> Iterator[dict[str, Any]]:
    """Return the option of sentencepiece's trainer for one of ``NORMALIZATIONS``."""
    if name != "identity":
        yield {"normalization_rule_name": name}
        return
    with NamedTemporaryFile("w", suffix=".tsv") as rules:  # code points: those replaced, and by which
        rules.writelines(f"{i:X}\t20\n" for i in range(sys.maxunicode + 1) if chr(i).isspace() and chr(i) != " ")
        rules.flush()
        yield {"normalization_rule_tsv": rules.name}


@contextmanager
def _ctrl_c_ends_the_process() -> Iterator[None]:
    """Let Ctrl-C end the process at once: Python would see it only when sentencepiece, in C++, has finished."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _vocabulary_error(size: int, message: str) -> str:
    if found := re.search(r"Vocabulary size too high .* <= (\d+)", message):
        return f"--vocab-size {size} is more than this corpus yields: choose at most {found[1]}"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"--vocab-size {size} is less than the characters of this corpus need: choose at least {found[1]}"
    return f"sentencepiece cannot learn from the train text with --vocab-size {size}: {message}"


def _data_bin(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Encode the text into what fairseq-train and fairseq-generate read."""
    languages = (settings.source_lang, settings.target_lang)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.model"))
    pairs = sum(report["text"][split]["kept"] for split in SPLITS)
    tokens = {}
    with replacing(out / "data-bin") as partial, tqdm(total=pairs, desc="encoding", **BAR) as bar:
        partial.mkdir()
        for language in languages:  # fairseq's format: piece, count; it adds the special ones itself
            with _create(partial / f"dict.{language}.txt") as file:
                file.writelines(f"{piece} 1\n" for piece in _pieces(processor)[SPECIAL:])
        for split in SPLITS:
            for language in languages:
                prefix = partial / f"{split}.{'-'.join(languages)}.{language}"
                with _open(out / "text" / f"{split}.{language}") as text:
                    batches = _encoded_batches(processor, text, workers, bar)
                    tokens[f"{split}.{language}"] = write_dataset(prefix, batches, len(processor))
    return {"tokens": tokens}, f"{sum(tokens.values())} tokens"


def _encoded_batches(
    processor: sentencepiece.SentencePieceProcessor, text: Iterable[str], workers: int, bar: tqdm
) -> Iterator[list[list[int]]]:
    lines = iter(text)
    while batch := [line.removesuffix("\n") for line in islice(lines, BATCH)]:
        yield processor.encode(batch, out_type=int, num_threads=workers, add_eos=True)
        bar.update(len(batch) / 2)  # the other halves of these pairs come apart from them


def replace_train_targets(prepared: Path, targets: Sequence[str], out: Path, workers: int | None = None) -> None:
    """Make ``out/data-bin`` like that of a prepared folder, with other targets in its training set.

    Args:
        prepared: a folder that ``prepare`` has made.
        targets: one for each training pair, in order; distillation gives a model's translations.
        out: the folder to make; what is there and whole is kept.
        workers: as for ``prepare``.
    """
    if not (out / "data-bin").exists():
        report = json.loads((prepared / "prepare.json").read_text(encoding="utf-8"))
        settings = Settings(**report["settings"])
        remove(out / "text")
        shutil.copytree(prepared / "text", out / "text")
        shutil.copy(prepared / "sentencepiece.model", out)
        with _create(out / "text" / f"train.{settings.target_lang}") as file:
            file.writelines(target + "\n" for target in targets)
        _data_bin(settings, out, workers or os.cpu_count() or 1, report)


def _pieces(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    return [processor.id_to_piece(i) for i in range(len(processor))]


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", newline="\n")


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


RULES = tuple(field.name for field in fields(Rules))
STAGES = {
    "text": Stage(("data", "source_lang", "target_lang", *RULES), ("text",), _text),
    "sentencepiece": Stage(
        ("vocab_size", "seed", "normalization"), ("sentencepiece.model", "sentencepiece.vocab"), _sentencepiece
    ),
    "data-bin": Stage((), ("data-bin",), _data_bin),
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
        help=f"picks the sentences to learn the vocabulary from, when over {VOCABULARY_SENTENCES} (default: 1)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads to encode with (default: one a processor)")
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        default=NORMALIZATIONS[0],
        help="sentencepiece's of characters; identity keeps …, ½ and full-width punctuation (default: %(default)s)",
    )
    cleaning = parser.add_argument_group("cleaning", "train pairs to leave out, beside those with an empty side")
    cleaning.add_argument("--max-words", type=int, metavar="N", help="with a side of more words")
    cleaning.add_argument("--max-chars", type=int, metavar="N", help="with a side of more characters")
    cleaning.add_argument(
        "--max-ratio", type=float, metavar="R", help="with a side of more words for each of the other"
    )
    for name, what in (
        ("identical", "whose sides are equal but for their case"),
        ("bad-encoding", "with U+FFFD, control characters, or UTF-8 that was read as Windows-1252"),
        ("duplicates", "that an earlier one equals"),
    ):
        cleaning.add_argument(f"--drop-{name}", action="store_true", help=what)
    args = vars(parser.parse_args(argv))
    rules = Rules(**{name: args.pop(name) for name in RULES})
    prepare(**args, rules=rules)


if __name__ == "__main__":
    main()
