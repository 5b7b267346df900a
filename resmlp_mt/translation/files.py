"""Translating what files hold: record by record in order, within the GPU's memory, with what is asked for of each."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from resmlp_core.common.errors import UserError
from resmlp_mt.translation.formats import Record
from resmlp_mt.translation.translator import Hypothesis, Translator

SMALLER = 4  # times, when the GPU is full


@dataclass(frozen=True)
class Rows:
    """What is written of a sentence where that is more than its translation: a row for each hypothesis.

    Attributes:
        nbest: rows of a sentence; the last are empty where the search has found fewer.
        scores: ``tsv`` or ``json`` for rows with the score; None for rows of columns without it.
        alignments: whether rows tell which word of the source each word is aligned with.
    """

    nbest: int = 1
    scores: str | None = None
    alignments: bool = False

    def __bool__(self) -> bool:
        return self != Rows()

    def write(self, hypotheses: list[Hypothesis]) -> str:
        """Write the rows of a sentence, with their line ends."""
        found = [*hypotheses, *[Hypothesis("", 0.0)] * (self.nbest - len(hypotheses))]
        return "".join(f"{self._row(one)}\n" for one in found)

    def _row(self, one: Hypothesis) -> str:
        pairs = [(source, target) for target, source in one.alignment]
        if self.scores == "json":
            row = {"text": one.text, "score": round(one.score, 4)}
            return json.dumps(row | ({"alignment": pairs} if self.alignments else {}), ensure_ascii=False)
        cells = [one.text]
        if self.scores:
            cells.append(f"{one.score:.4f}")
        if self.alignments:
            cells.append(" ".join(f"{source}-{target}" for source, target in pairs))
        return "\t".join(cells)


@dataclass
class FileTranslator:
    """A translator with its options, which counts what it translates.

    Attributes:
        translator: translates sentences.
        options: of ``Translator.stream``; batches become smaller when the GPU is full.
        sentences: translated so far.
        split: of these, how many were longer than the model, and were translated in pieces.
    """

    translator: Translator
    options: dict[str, Any]
    sentences: int = 0
    split: int = 0
    _smaller: bool = False

    def translate(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[list[Hypothesis]]]]:
        """Yield records in order, each with the hypotheses of its texts.

        Raises:
            UserError: the GPU is full with smaller batches too.
        """
        read: deque[Record] = deque()

        def texts() -> Iterator[str]:
            for record in records:
                read.append(record)
                yield from record.texts

        done: list[list[Hypothesis]] = []
        for hypotheses in self._stream(texts()):
            while not read[0].texts:
                yield read.popleft(), []
            done.append(hypotheses)
            if len(done) == len(read[0].texts):
                yield read.popleft(), done
                done = []
        for record in read:
            yield record, []

    def _stream(self, texts: Iterator[str]) -> Iterator[list[Hypothesis]]:
        """Translate texts; what the GPU had no room for once more, in smaller batches."""
        waiting: deque[str] = deque()

        def fed(more: Iterable[str]) -> Iterator[str]:
            for text in more:
                waiting.append(text)
                yield text

        while True:
            again, waiting = waiting, deque()
            try:
                for hypotheses in self.translator.stream(fed(chain(again, texts)), **self.options):
                    text = waiting.popleft()
                    self.sentences += 1
                    self.split += self._is_long(text)
                    yield hypotheses
                return
            except torch.OutOfMemoryError:
                if self._smaller:
                    raise UserError(
                        f"the GPU is full with batches of {self.options['max_tokens']} tokens too: "
                        "give a smaller --max-tokens, or --device cpu"
                    ) from None
            self._make_smaller()

    def _is_long(self, text: str) -> bool:
        # a text has no more tokens than characters, but for a mark at its beginning and the end of the sentence
        return len(text) + 2 > self.translator.max_source_tokens and len(self.translator.split(text)) > 1

    def _make_smaller(self) -> None:
        self._smaller = True
        torch.cuda.empty_cache()
        for option in ("max_tokens", "batch_size"):
            if self.options.get(option):
                self.options[option] = max(1, self.options[option] // SMALLER)
        print(f"the GPU is full: going on with --max-tokens {self.options['max_tokens']}", file=sys.stderr)
