"""The second stage of ``resmlp_mt.prepare``: one vocabulary for both languages, which sentencepiece learns."""

import io
import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sentencepiece

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import digest, replacing
from resmlp_mt.data.normalization import normalization_option
from resmlp_mt.data.prepared import Settings, create_text, open_text

VOCABULARY_SENTENCES = 1_000_000  # a larger corpus is sampled: memory stays bounded, and more would change little
INT_MAX = 2**31 - 1  # sentencepiece tells of a vocabulary that is too large only up to here


class VocabularyTooLargeError(UserError):
    """A corpus yields no vocabulary of this size.

    Args:
        size: that was asked for.
        most: that the corpus yields.
    """

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"vocab_size={size} is more than this corpus yields: choose at most {most}")
        self.size, self.most = size, most


def learn_vocabulary(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Learn one vocabulary for both languages. Its ids are fairseq's, special symbols included."""
    model = io.BytesIO()
    try:
        with _ctrl_c_ends_the_process(), normalization_option(settings.normalization) as normalization:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sample_sentences(settings, out, report["text"]["train"]["kept"]),
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
        raise _vocabulary_error(settings.vocab_size, str(error)) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with replacing(out / "sentencepiece.model") as partial:
        partial.write_bytes(model.getvalue())
    with replacing(out / "sentencepiece.vocab") as partial, create_text(partial) as file:
        file.writelines(f"{piece}\t{processor.get_score(i):g}\n" for i, piece in enumerate(pieces_of(processor)))
    sha256 = digest([out / "sentencepiece.model"])
    return {"vocabulary": len(processor), "sha256": sha256}, f"{len(processor)} entries"


def sample_sentences(settings: Settings, out: Path, pairs: int) -> Iterator[str]:
    """Yield the sentences to learn from, of both languages: all of a small corpus, else what the seed draws."""
    chance = VOCABULARY_SENTENCES / (2 * pairs)
    draw = random.Random(settings.seed).random
    for language in sorted((settings.source_lang, settings.target_lang)):  # so that both directions share a vocabulary
        with open_text(out / "text" / f"train.{language}") as text:
            yield from (line.removesuffix("\n") for line in text if chance >= 1 or draw() < chance)


def pieces_of(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """List the entries of a vocabulary, by their ids."""
    return [processor.id_to_piece(i) for i in range(len(processor))]


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


def _vocabulary_error(size: int, message: str) -> UserError:
    if found := re.search(r"Vocabulary size too high .* <= (\d+)", message):
        return VocabularyTooLargeError(size, int(found[1]))
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"vocab_size={size} is less than the characters of this corpus need: choose at least {found[1]}"
        )
    return UserError(f"sentencepiece cannot learn from the train text with vocab_size={size}: {message}")
