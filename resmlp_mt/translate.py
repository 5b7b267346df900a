"""Translate files, standard input, or what is typed: ``resmlp-translate MODEL [INPUT ...] [-o OUTPUT]``."""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.arguments import at_least
from resmlp_core.common.checkpoint import find_checkpoint
from resmlp_core.common.errors import UserError, output_is_lost, reporting
from resmlp_core.common.files import digest
from resmlp_mt.text import has_text
from resmlp_mt.translation.documents import by_sentence, paragraphs
from resmlp_mt.translation.files import FileTranslator, Rows
from resmlp_mt.translation.formats import Record, plain, records_of, refuse_format
from resmlp_mt.translation.input_text import STANDARD_INPUT, as_they_come, lines_from, refuse_unreadable
from resmlp_mt.translation.output_file import OutputFile, refuse_output
from resmlp_mt.translation.show import MOST, write_show
from resmlp_mt.translation.translator import MOST_LENPEN, Translator, load_translator

SEARCH = ("beam", "lenpen", "nbest", "prefix", "sampling", "seed", "alignments")  # options that change a translation
BAR = "{percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} lines [{elapsed}, {remaining} left{postfix}]"


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = argparse.ArgumentParser(
        prog="resmlp-translate",
        description="Translate files or standard input line by line, or what is typed.",
        epilog="If a run with -o was cut off, the same command again resumes it.",
    )
    add = parser.add_argument
    add(
        "model",
        type=Path,
        metavar="MODEL",
        help="a recipe's folder, such as build/demo/run/resmlp_tiny, a checkpoint, or what resmlp-export wrote",
    )
    add("inputs", nargs="*", default=[], metavar="INPUT", help="a text file, also .gz; - or no file for standard input")
    add("-o", "--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    add(
        "--show",
        type=Path,
        metavar="FILE",
        help=f"write a page of HTML instead, which shows what the first {MOST} translations look at",
    )
    add("--force", action="store_true", help="replace a FILE that exists")
    add("--pair", metavar="SRC-TGT", help="stop if the model translates another pair of languages, such as en-de")
    add("--sentencepiece", type=Path, metavar="FILE", help="the sentencepiece model, if not near the checkpoint")
    add("--dictionaries", type=Path, metavar="DIR", help="the folder of dict.*.txt, if not near the checkpoint")

    reading = parser.add_argument_group("input", "subtitles in the SubRip format are recognised by their times")
    reading.add_argument("--document", action="store_true", help="each line is a paragraph of several sentences")
    kind = reading.add_mutually_exclusive_group()
    kind.add_argument("--column", metavar="C", help="translate a column of TSV: its number from 1, or its name")
    kind.add_argument("--field", metavar="F", help="translate a field of JSON lines")

    search = parser.add_argument_group("search")
    search.add_argument(
        "--beam", type=at_least(1), default=4, metavar="N", help="hypotheses kept (default: %(default)s)"
    )
    search.add_argument(
        "--lenpen",
        type=float,
        default=1.0,
        metavar="P",
        help="above 1 favours long translations (default: %(default)s)",
    )
    search.add_argument("--prefix", metavar="TEXT", help="what every translation begins with")
    search.add_argument("--sampling", action="store_true", help="draw --beam N translations at random, without search")
    search.add_argument("--seed", type=int, default=1, metavar="N", help="for --sampling (default: %(default)s)")

    rows = parser.add_argument_group("output")
    rows.add_argument("--nbest", type=at_least(1), default=1, metavar="N", help="write the N best, a line each")
    rows.add_argument("--scores", choices=("tsv", "json"), help="write scores too: in a column, or as JSON lines")
    rows.add_argument("--alignments", action="store_true", help="write which words belong together, as source-target")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="D", help="cpu or cuda (default: a GPU where there is one)")
    machine.add_argument(
        "--dtype", metavar="T", help="float32, bfloat16, on a CPU int8, on a GPU float16 (default: float32)"
    )
    machine.add_argument(
        "--max-tokens",
        type=at_least(1),
        default=4096,
        metavar="N",
        help="source tokens in a batch (default: %(default)s)",
    )
    machine.add_argument("--batch-size", type=at_least(1), metavar="N", help="sentences in a batch at most")
    return parser


@reporting("translate")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line()
    args = parser.parse_intermixed_args(argv)
    rows = Rows(args.nbest, args.scores, args.alignments)
    if args.nbest > args.beam:
        parser.error(f"--nbest {args.nbest} needs as large a --beam, and has {args.beam}")
    if not abs(args.lenpen) <= MOST_LENPEN:
        parser.error(f"--lenpen {args.lenpen} must be from -{MOST_LENPEN} to {MOST_LENPEN}")
    special = args.document or args.column or args.field
    if rows and special:
        parser.error("--nbest, --scores and --alignments are for lines: leave --document, --column and --field out")
    if args.show and (args.output or rows or args.prefix):
        parser.error("--show writes a page: leave -o, --nbest, --scores, --alignments and --prefix out")
    args.inputs = args.inputs or [STANDARD_INPUT]
    typed = args.inputs == [STANDARD_INPUT] and sys.stdin.isatty() and not (args.output or special)
    refuse_output(*(("--show", args.show) if args.show else ("-o", args.output)), args.inputs, args.force)
    for name in args.inputs:
        refuse_format(name, args.column, args.field, bool(rows))
    lines = refuse_unreadable(args.inputs)
    translator = load(args)
    options = {name: getattr(args, name) for name in (*SEARCH, "max_tokens", "batch_size")}
    work = FileTranslator(translator, options)
    if args.show:
        show(args, translator, options)
    elif typed:
        translate_typed(work, rows)
    else:
        translate_files(args, work, rows, lines)


def load(args: argparse.Namespace) -> Translator:
    """Load the model.

    Raises:
        UserError: something is missing or does not fit, or the model translates another pair of languages, or has
            fewer entries in its vocabulary than the beam.
    """
    vocabulary = {"sentencepiece": args.sentencepiece, "dictionaries": args.dictionaries}
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"translate: {message}", file=sys.stderr)
        translator = load_translator(args.model, args.device, args.dtype, **vocabulary)
    pair = "-".join(translator.languages)
    if args.pair not in (None, pair):
        raise UserError(f"--pair {args.pair}: the model {args.model} translates {pair}")
    if args.beam > (entries := len(translator.vocabulary.target)):
        raise UserError(f"--beam {args.beam}: the model's vocabulary has only {entries:,} entries to choose from")
    return translator


def show(args: argparse.Namespace, translator: Translator, options: dict[str, Any]) -> None:
    """Write the page of the first sentences."""
    texts = (text for record in records_from(args, translator, False) for text in record.texts)
    sentences = filter(has_text, texts)
    write_show(translator, list(islice(sentences, MOST)), args.show, **options | {"alignments": False})
    print(f"translate: {args.show} is to be opened in a browser", file=sys.stderr)


def translate_typed(work: FileTranslator, rows: Rows) -> None:
    """Translate each line as it is typed."""
    print("Type a sentence and press Enter; Ctrl-D ends.", file=sys.stderr)
    for line in lines_from(STANDARD_INPUT):
        for record, found in work.translate([plain(line)]):
            print(written(record, found, rows), end="", flush=True)
        if output_is_lost():
            break


def translate_files(args: argparse.Namespace, work: FileTranslator, rows: Rows, total: int | None) -> None:
    """Translate files or standard input, with a bar where that is seen, and a line in the end.

    Args:
        args: the command line.
        work: translates.
        rows: what to write of a sentence.
        total: lines, if they could be counted.
    """
    if not sys.stdout.isatty():  # as what is read, whatever the locale
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    records = records_from(args, work.translator, bool(rows))
    begun = time.monotonic()
    seen = args.output or not sys.stdout.isatty()
    with (
        OutputFile(args.output, made_with(args, work)) if args.output else nullcontext() as output,
        tqdm(total=total, bar_format=BAR if total else None, unit=" lines", disable=None if seen else True) as bar,
    ):
        translated = 0

        def follow(sentences: int) -> None:  # the first line may have to wait for all batches of its window
            nonlocal translated
            translated += sentences
            rate = translated / (time.monotonic() - begun)
            bar.set_postfix_str(f"{translated:,} sentences, {rate:.1f} a second")

        work.options["on_batch"] = follow
        if output:
            records = output.remaining(records)
            bar.update(output.lines)
        chunks = as_they_come(records) if total is None else [records]
        for record, found in chain.from_iterable(map(work.translate, chunks)):
            text = written(record, found, rows)
            if output:
                output.write(record, text)
            else:
                print(text, end="", flush=True)
            bar.update(record.lines)
            if output_is_lost() and not output:
                return
    report(work, time.monotonic() - begun)


def records_from(args: argparse.Namespace, translator: Translator, detailed: bool) -> Iterator[Record]:
    """Read the inputs, one after another."""
    for name in args.inputs:
        text = paragraphs if args.document else None
        shown = "standard input" if name == STANDARD_INPUT else name
        records = records_of(shown, lines_from(name), args.column, args.field, text, detailed)
        if args.document:
            records = (by_sentence(record, translator.languages[0]) for record in records)
        yield from records


def written(record: Record, found: list[Any], rows: Rows) -> str:
    """Return what is written of a record whose texts have these hypotheses."""
    if rows:
        return "".join(map(rows.write, found))
    return record.write([hypotheses[0].text for hypotheses in found])


def made_with(args: argparse.Namespace, work: FileTranslator) -> dict[str, Any]:
    """Name what the translations depend on."""
    model = Path(find_checkpoint(args.model))
    names = (*SEARCH, "scores", "document", "column", "field")
    options = {f"--{name}": getattr(args, name) for name in names} | {"--dtype": args.dtype or "float32"}
    return {"MODEL": digest([model]), "vocabulary": work.translator.vocabulary.digest} | options


def report(work: FileTranslator, seconds: float) -> None:
    """Say what was done."""
    longest = work.translator.max_source_tokens
    split = f"; {work.split} longer than the model's {longest} positions, split at punctuation marks"
    rate = f"{work.sentences / seconds:.1f} a second" if seconds else ""
    sentences = f"{work.sentences:,} sentence{'' if work.sentences == 1 else 's'}"
    print(f"translate: {sentences} in {seconds:.1f} s, {rate}{split if work.split else ''}", file=sys.stderr)


if __name__ == "__main__":
    main()
