"""Text in, translations out: ``load_translator(folder).translate(["A dog."])``."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice, repeat
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, overload

import torch
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_mt.text import has_text, one_line
from resmlp_mt.translation.attention import align, cross_attention
from resmlp_mt.translation.batches import batches, in_order, pad
from resmlp_mt.translation.hypothesis import Hypothesis, join
from resmlp_mt.translation.loading import read_trained
from resmlp_mt.translation.long_sentences import split_long
from resmlp_mt.translation.network import HAS_ONNX_RUNTIME, Network
from resmlp_mt.translation.products import IS_FAST
from resmlp_mt.translation.search import Found, SearchOptions, search
from resmlp_mt.translation.vocabulary import UNK, Vocabulary, text_of

WINDOW = 1024  # sentences read ahead, to be sorted by length
MOST_LENPEN = 10  # the power of a translation's length is a number then


def load_translator(
    model: str | Path,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    *,
    sentencepiece: str | Path | None = None,
    dictionaries: str | Path | None = None,
) -> "Translator":
    """Load a trained model to translate with.

    On a CPU, ONNX Runtime takes as many threads as PyTorch has now: call ``torch.set_num_threads`` before.

    Args:
        model: a recipe's folder, such as ``build/demo/run/resmlp_tiny``; a checkpoint of fairseq's; or a folder that
            ``resmlp-export`` wrote.
        device: ``cpu`` or ``cuda``; the GPU where there is one when None.
        dtype: of products: ``float32``, the default; ``bfloat16``; on a CPU ``int8``; on a GPU ``float16``. A processor
            that lacks the instructions computes in float32, with a warning.
        sentencepiece: the file of the sentencepiece model, where it is not near the checkpoint.
        dictionaries: the folder of fairseq's ``dict.LANGUAGE.txt``, likewise.

    Raises:
        UserError: something is missing, is not what it should be, or does not belong together.
    """
    try:
        where = torch.empty(0, device=device or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError):  # as PyTorch is built
        raise UserError(f"device {device} is not on this machine") from None
    trained = read_trained(model, sentencepiece, dictionaries)
    network = Network(trained.weights, trained.settings).to(where).prepare(usable(dtype or "float32", where))
    languages = trained.settings["source_lang"], trained.settings["target_lang"]
    return Translator(network, trained.vocabulary, where, languages)


def usable(dtype: str, device: torch.device) -> str:
    """Return the dtype if the device computes in it; float32 after a warning if it is a processor that does not.

    Raises:
        UserError: there is no such dtype on a device of this kind, or a package that it needs is not installed.
    """
    known = list(IS_FAST) if device.type == "cpu" else ["float32", "bfloat16", "float16"]
    if dtype not in known:
        raise UserError(f"dtype {dtype}: {device.type} has {', '.join(known)}")
    if device.type == "cpu" and not IS_FAST[dtype]():
        warnings.warn(f"this processor has no instructions for {dtype}: computing in float32", stacklevel=3)
        return "float32"
    if dtype == "int8" and not HAS_ONNX_RUNTIME:
        raise UserError("dtype int8 needs the packages onnx and onnxruntime: pip install onnx onnxruntime")
    return dtype


class Translator:
    """A model ready to translate; ``load_translator`` makes it. Several threads may use one.

    Attributes:
        vocabulary: of its tokens.
        max_source_tokens: the longest sentence that the model reads at once, its end included.
        languages: those of sentences and of translations, such as ``("en", "de")``.
    """

    def __init__(
        self, network: Network, vocabulary: Vocabulary, device: torch.device, languages: tuple[str, str]
    ) -> None:
        self.network = network
        self.vocabulary = vocabulary
        self.device = device
        self.languages = languages
        self.max_source_tokens: int = network.encoder.positions

    @overload
    def translate(self, sentences: str, *, details: Literal[False] = False, **options: Any) -> str: ...
    @overload
    def translate(self, sentences: Sequence[str], *, details: Literal[False] = False, **options: Any) -> list[str]: ...
    @overload
    def translate(self, sentences: str, *, details: Literal[True], **options: Any) -> list[Hypothesis]: ...
    @overload
    def translate(
        self, sentences: Sequence[str], *, details: Literal[True], **options: Any
    ) -> list[list[Hypothesis]]: ...
    def translate(self, sentences, *, details=False, **options):  # type: ignore[no-untyped-def]
        """Translate a sentence or a list of them, in batches.

        Args:
            sentences: raw text, each a line of any length.
            details: give hypotheses, best first, with scores and alignments, in place of the best's text.
            options: those of ``stream``.

        Returns:
            For each sentence its translation; with ``details`` its hypotheses. For one string, that of it.
        """
        if isinstance(sentences, str):
            return self.translate([sentences], details=details, **options)[0]
        found = self.stream(sentences, **{"alignments": details, **options})
        return [hypotheses if details else hypotheses[0].text for hypotheses in found]

    def stream(
        self,
        sentences: Iterable[str],
        *,
        beam: int = 4,
        lenpen: float = 1.0,
        nbest: int = 1,
        min_len: int = 1,
        max_len_a: float = 0.0,
        max_len_b: int | None = None,
        max_tokens: int = 4096,
        batch_size: int | None = None,
        prefix: str | Iterable[str] | None = None,
        sampling: bool = False,
        seed: int = 1,
        alignments: bool = False,
        on_batch: Callable[[int], None] = lambda sentences: None,
    ) -> Iterator[list[Hypothesis]]:
        """Translate sentences as they come, in their order, batched by length among the next 1,024 of them.

        Each is given as soon as those before it are. A sentence without visible text has an empty translation. One that
        is longer than A is translated in pieces.

        Args:
            sentences: raw text; a line break within one counts as a space. One string is one sentence.
            beam: hypotheses kept; 1 is greedy search.
            lenpen: above 1 favours longer translations, below 1 shorter ones; from -10 to 10.
            nbest: hypotheses returned for each sentence, at most ``beam``.
            min_len: tokens of a translation at least.
            max_len_a: tokens of a translation at most are ``max_len_a`` times its source's plus ``max_len_b``.
            max_len_b: None for as many as the decoder's A has rows for.
            max_tokens: source tokens in a batch, padding included; no more hypotheses are kept in one either.
            batch_size: sentences in a batch at most.
            prefix: what every translation is to begin with; or one for each sentence.
            sampling: draw ``beam`` translations instead of searching for the best; the most probable comes first.
            seed: of sampling. The same sentence has the same samples, wherever it stands.
            alignments: fill in the hypotheses' ``alignment``.
            on_batch: called when a batch is translated, with the number of its sentences, or pieces of long ones.

        Raises:
            TypeError: a sentence is no string.
            ValueError: an option is out of its range, or there are fewer prefixes than sentences.
            UserError: ``prefix`` has what the target's vocabulary lacks, or more tokens than the decoder's A has rows.
        """
        if not 1 <= nbest <= beam:
            raise ValueError(f"nbest={nbest} must be 1 or more, and at most beam={beam}")
        if not abs(lenpen) <= MOST_LENPEN:
            raise ValueError(f"lenpen={lenpen} must be from -{MOST_LENPEN} to {MOST_LENPEN}")
        if not max_len_a >= 0:
            raise ValueError(f"max_len_a={max_len_a} must be 0 or more")
        if max_tokens < 1 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"max_tokens={max_tokens} and batch_size={batch_size} must be 1 or more")
        options = SearchOptions(beam, lenpen, min_len, max_len_a, max_len_b, sampling, seed)
        most = max(1, max_tokens // beam)
        batch_size = min(batch_size or most, most)
        lines = iter([sentences] if isinstance(sentences, str) else sentences)
        prefixes = repeat(prefix or "") if prefix is None or isinstance(prefix, str) else iter(prefix)
        while window := list(islice(lines, WINDOW)):
            begins = list(islice(prefixes, len(window)))
            if len(begins) < len(window):
                raise ValueError("prefix has fewer entries than there are sentences")
            pieces = [self.split(sentence) for sentence in window]
            flat = [piece for parts in pieces for piece in parts]
            starts = accumulate((len(parts) for parts in pieces), initial=0)
            first = dict(zip(starts, begins, strict=False)) if any(begins) else {}
            found = in_order(self._by_length(flat, first, options, nbest, max_tokens, batch_size, alignments, on_batch))
            for parts, sentence in zip(pieces, window, strict=True):
                yield join(list(islice(found, len(parts))), parts, one_line(sentence), lenpen)

    def _by_length(
        self,
        pieces: list[str],
        first: dict[int, str],
        options: SearchOptions,
        nbest: int,
        max_tokens: int,
        batch_size: int,
        alignments: bool,
        on_batch: Callable[[int], None],
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Yield hypotheses with the number of their piece, those of pieces of like length together."""
        ids = [self.vocabulary.encode(piece) for piece in pieces]
        yield from ((i, [Hypothesis("", 0.0)]) for i, tokens in enumerate(ids) if len(tokens) == 1)
        lengths = {i: len(tokens) for i, tokens in enumerate(ids) if len(tokens) > 1}
        for batch in batches(lengths, max_tokens, batch_size):
            sources = pad([ids[i] for i in batch]).to(self.device)
            prefixes = [self._begin(first.get(i, "")) for i in batch] if first else None
            found = [one[:nbest] for one in search(self.network, sources, options, prefixes)]
            results = [[self._hypothesis(one) for one in several] for several in found]
            if alignments:
                self._align(sources, found, [pieces[i] for i in batch], results)
            on_batch(len(batch))
            yield from zip(batch, results, strict=True)

    def _begin(self, prefix: str) -> list[int]:
        ids = self.vocabulary.encode_prefix(prefix)
        if UNK in ids:
            raise UserError(f"the prefix {prefix!r} has what the model's vocabulary lacks")
        if len(ids) >= (positions := self.network.decoder.positions):
            room = f"has {len(ids)} tokens, and a translation at most {positions - 1}"
            raise UserError(f"the prefix {shorten(prefix, 40, placeholder=' ...')!r} {room}")
        return ids

    def _hypothesis(self, found: Found) -> Hypothesis:
        tokens = self.vocabulary.target_pieces(found.tokens)
        return Hypothesis(text_of(tokens), found.score, tuple(tokens))

    def _align(
        self, sources: Tensor, found: list[list[Found]], texts: list[str], hypotheses: list[list[Hypothesis]]
    ) -> None:
        """Fill in the alignments of a batch's hypotheses."""
        rows = [row for row, several in enumerate(found) for _ in several]
        targets = pad([one.tokens for several in found for one in several]).to(self.device)
        weights = iter(cross_attention(self.network, sources[rows], targets)[-1].cpu())
        for text, several in zip(texts, hypotheses, strict=True):
            pieces = self.vocabulary.pieces(text)
            several[:] = [replace(one, alignment=align(next(weights), pieces, one.tokens)) for one in several]

    def split(self, sentence: str) -> list[str]:
        """Split a sentence that is longer than A into pieces that fit; one that fits stays whole."""
        if not isinstance(sentence, str):
            raise TypeError(f"a sentence must be a string: {sentence!r}")
        line = one_line(sentence)
        if not has_text(line):
            return [""]
        return split_long(line, lambda text: len(self.vocabulary.encode(text)), self.max_source_tokens)
