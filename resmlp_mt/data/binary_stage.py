"""The last stage of ``resmlp_mt.prepare``: the text in the vocabulary's ids, as fairseq reads it."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.devices import available_cores
from resmlp_core.common.files import remove, replacing
from resmlp_mt.data.binarized import write_dataset
from resmlp_mt.data.prepared import BAR, SPECIAL, SPLITS, Settings, create_text, open_text, read_report
from resmlp_mt.data.vocabulary_stage import pieces_of

BATCH = 10_000  # sentences encoded at a time


def write_data_bin(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Encode the text into what fairseq-train and fairseq-generate read."""
    languages = (settings.source_lang, settings.target_lang)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.model"))
    pairs = sum(report["text"][split]["kept"] for split in SPLITS)
    tokens = {}
    with replacing(out / "data-bin") as partial, tqdm(total=pairs, desc="encoding", **BAR) as bar:
        partial.mkdir()
        for language in languages:  # fairseq's format: piece, count; it adds the special ones itself
            with create_text(partial / f"dict.{language}.txt") as file:
                file.writelines(f"{piece} 1\n" for piece in pieces_of(processor)[SPECIAL:])
        for split in SPLITS:
            for language in languages:
                prefix = partial / f"{split}.{'-'.join(languages)}.{language}"
                with open_text(out / "text" / f"{split}.{language}") as text:
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


def replace_train_targets(prepared: Path, targets: Sequence[str], out: Path) -> None:
    """Make ``out/data-bin`` like that of a prepared folder, with other targets in its training set.

    Args:
        prepared: a folder that ``prepare`` has made.
        targets: one for each training pair, in order; distillation gives a model's translations.
        out: the folder to make; what is there and whole is kept.
    """
    if not (out / "data-bin").exists():
        report = read_report(prepared)
        settings = Settings(**report["settings"])
        remove(out / "text")
        shutil.copytree(prepared / "text", out / "text")
        shutil.copy(prepared / "sentencepiece.model", out)
        with create_text(out / "text" / f"train.{settings.target_lang}") as file:
            file.writelines(target + "\n" for target in targets)
        write_data_bin(settings, out, available_cores(), report)
