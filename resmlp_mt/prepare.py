"""Parallel text in, fairseq's binary data out: ``python -m resmlp_mt.prepare --help``."""

import argparse
import hashlib
import io
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import sentencepiece
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.files import UserError, alone_in, remove, replacing, reporting, write_json
from resmlp_mt.corpus import fingerprint, read_pairs
from resmlp_mt.host import run_fairseq

SPLITS = ("valid", "test", "train")  # the small ones first, so that what is wrong with the data shows at once
VOCABULARY_SENTENCES = 10_000_000  # a larger corpus is sampled: memory stays bounded, and more would change little


@dataclass(frozen=True)
class Settings:
    """What decides the content of a prepared folder."""

    data: str
    source_lang: str
    target_lang: str
    vocab_size: int
    seed: int


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
    seed: int = 1,
    workers: int | None = None,
) -> dict[str, Any]:
    """Make ``out`` a folder to train on: text/, sentencepiece.model and .vocab, data-bin/ and prepare.json.

    What is already there and whole is kept, so that an interrupted run goes on where it was. The same input gives the
    same bytes, whatever the number of workers.

    Args:
        data: a folder or a data set on the hub, as for ``resmlp_mt.corpus.read_pairs``.
        source_lang: the language to translate from, as the data call it.
        target_lang: the language to translate to.
        vocab_size: entries of the joint vocabulary, counting fairseq's four special ones.
        out: the folder to make or to complete.
        seed: picks the sentences that the vocabulary is learned from when there are more than ten million.
        workers: threads and processes to use; as many as there are processors when None.

    Returns:
        The content of prepare.json: the settings and, by stage, the pairs per split, the vocabulary and the tokens.

    Raises:
        UserError: for data that cannot be used, or when ``out`` was prepared with other settings or other data.
        OSError: when a file cannot be read or written; nothing half-written stays behind.
    """
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UserError(f"--workers {workers} is less than 1")
    where = str(Path(data).resolve()) if Path(data).exists() else str(data)
    settings = Settings(where, source_lang, target_lang, vocab_size, seed)
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
        write_json(out / "prepare.json", report)
        for name, stage in islice(STAGES.items(), done, None):
            started = time.perf_counter()
            report[name], summary = stage.run(settings, out, workers, report)
            report["settings"] |= {key: getattr(settings, key) for key in stage.settings}
            write_json(out / "prepare.json", report)
            print(f"{name}: {summary} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"{out} is ready", flush=True)
    return report


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
        earlier = report["settings"].items()
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path} is not a report of prepare's: remove {out}, or choose another --out") from None
    now = asdict(settings)
    for key, value in earlier:
        if now.get(key) != value:
            option = "--" + key.replace("_", "-")
            raise UserError(f"{out} was prepared with {option} {value}, not {now.get(key)}: choose another --out")
    made_of = report.get("text", {}).get("sha256")
    if made_of and made_of != fingerprint(settings.data, settings.source_lang, settings.target_lang):
        raise UserError(f"--data {settings.data} has changed since {out} was prepared from it: choose another --out")
    return report


def _text(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Write the pairs as text/{split}.{language}, less the train pairs that have an empty side."""
    counts: dict[str, Any] = {}
    sha256 = fingerprint(settings.data, settings.source_lang, settings.target_lang)
    with replacing(out / "text") as partial:
        partial.mkdir()
        for split in SPLITS:
            pairs = read_pairs(settings.data, settings.source_lang, settings.target_lang, split)
            read = kept = 0
            with (
                _create(partial / f"{split}.{settings.source_lang}") as sources,
                _create(partial / f"{split}.{settings.target_lang}") as targets,
            ):
                for source, target in tqdm(pairs, f"reading {split}", unit=" pairs", disable=None, leave=False):
                    read += 1
                    # The references of valid and test stay as they are: a score is over all of them.
                    if split != "train" or (source and target):
                        kept += 1
                        sources.write(source + "\n")
                        targets.write(target + "\n")
            if not kept:
                raise UserError(f"--data {settings.data}: {split} has no pair with text on both sides")
            counts[split] = {"read": read, "kept": kept, "dropped": read - kept}
    sizes = ", ".join(f"{split} {counts[split]['kept']}" for split in ("train", "valid", "test"))
    return counts | {
        "sha256": sha256
    }, f"{sizes} pairs; left out of train for an empty side: {counts['train']['dropped']}"


def _sentencepiece(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Learn one vocabulary for both languages. Its ids are fairseq's, special symbols included."""
    model = io.BytesIO()
    try:
        with _ctrl_c_ends_the_process():
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_vocabulary_sentences(settings, out, report["text"]["train"]["kept"]),
                model_writer=model,
                model_type="bpe",
                vocab_size=settings.vocab_size,
                character_coverage=1.0,
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
    """Encode the text and run fairseq-preprocess on it."""
    languages = (settings.source_lang, settings.target_lang)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.model"))
    sentences = 2 * sum(report["text"][split]["kept"] for split in SPLITS)
    with replacing(out / "data-bin") as partial:
        encoded = partial / "encoded"
        encoded.mkdir(parents=True)
        with _create(encoded / "dict.txt") as file:  # fairseq's format: piece, count; it adds the special ones itself
            file.writelines(f"{piece} 1\n" for piece in _pieces(processor)[4:])
        with tqdm(total=sentences, desc="encoding", unit=" sentences", disable=None, leave=False) as bar:
            for name in (f"{split}.{language}" for split in SPLITS for language in languages):
                with _open(out / "text" / name) as text, _create(encoded / name) as file:
                    for line in encode(processor, text, workers):
                        file.write(line + "\n")
                        bar.update()
        tokens = _run_fairseq_preprocess(partial, languages, workers, sentences)
        remove(encoded)
        remove(partial / "preprocess.log")  # it has the time of day in it
    return {"tokens": tokens}, f"{sum(tokens.values())} tokens"


def encode(
    processor: sentencepiece.SentencePieceProcessor, sentences: Iterable[str], workers: int = 1
) -> Iterator[str]:
    """Yield each sentence as its pieces with a space between them, as fairseq's dictionary knows them.

    Args:
        processor: a model of ``prepare``'s.
        sentences: one a line, as ``read_pairs`` gives them; a newline at the end does not matter.
        workers: threads to encode with.
    """
    pieces = _pieces(processor)
    lines = iter(sentences)
    while batch := [sentence.removesuffix("\n") for sentence in islice(lines, 10_000)]:
        # By id: for what it does not know sentencepiece gives the text itself as the piece, and text such as ``</s>``
        # would then be fairseq's end of sentence.
        for ids in processor.encode(batch, out_type=int, num_threads=workers):
            yield " ".join(pieces[i] for i in ids)


def _run_fairseq_preprocess(folder: Path, languages: Sequence[str], workers: int, sentences: int) -> dict[str, int]:
    """Make folder/encoded/{split}.{language} binary in folder. Return each file's tokens, ends of sentence included."""
    command = ["--source-lang", languages[0], "--target-lang", languages[1], "--joined-dictionary"]
    command += ["--srcdict", "encoded/dict.txt", "--destdir", ".", "--workers", str(workers)]
    for split in SPLITS:
        command += [f"--{split}pref", f"encoded/{split}"]  # relative, as fairseq splits these at commas
    tokens = {}
    with tqdm(total=sentences, desc="fairseq-preprocess", unit=" sentences", disable=None, leave=False) as bar:

        def follow(line: str) -> None:
            if found := re.search(r"encoded/(\S+): (\d+) sents, (\d+) tokens", line):
                tokens[found[1]] = int(found[3])
                bar.update(int(found[2]))

        run_fairseq("preprocess", command, follow, cwd=folder)
    return tokens


def _pieces(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    return [processor.id_to_piece(i) for i in range(len(processor))]


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", newline="\n")


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


STAGES = {
    "text": Stage(("data", "source_lang", "target_lang"), ("text",), _text),
    "sentencepiece": Stage(("vocab_size", "seed"), ("sentencepiece.model", "sentencepiece.vocab"), _sentencepiece),
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
        help="folder with {train,valid,test}.{LANG} text or {train,validation,test}.parquet, or a name on the hub: "
        "owner/name or owner/name:config",
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
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads and processes to use (default: one a processor)"
    )
    args = parser.parse_args(argv)
    prepare(**vars(args))


if __name__ == "__main__":
    main()
