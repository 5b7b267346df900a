"""Beam search and sampling: token for token what fairseq's SequenceGenerator finds with the same settings."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resmlp_mt.translation.batches import pad
from resmlp_mt.translation.decoding import Decoding
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.vocabulary import EOS, PAD

BLOCK = 128  # entries of the vocabulary, whose maximum a processor finds fast


@dataclass(frozen=True)
class SearchOptions:
    """What to search for.

    Attributes:
        beam: hypotheses kept for a sentence, or samples drawn; 1 is greedy search.
        lenpen: a hypothesis's score is the logarithm of its probability divided by its length to this power.
        min_len: tokens at least, without the end.
        max_len_a: tokens at most, without the end: ``max_len_a`` times the source's tokens, its end counted, plus
            ``max_len_b``; never more than the decoder's A has rows for.
        max_len_b: None for all those rows.
        sampling: draw tokens by their probability instead of searching for the best.
        seed: of sampling; the same sentence then has the same samples, whatever is translated beside it.
    """

    beam: int = 4
    lenpen: float = 1.0
    min_len: int = 1
    max_len_a: float = 0.0
    max_len_b: int | None = None
    sampling: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Found:
    """A hypothesis as token ids, its end included, and its score."""

    tokens: list[int]
    score: float


@torch.inference_mode()
def search(
    network: Network, sources: Tensor, options: SearchOptions, prefixes: Sequence[Sequence[int]] | None = None
) -> list[list[Found]]:
    """Translate a batch.

    Args:
        network: as ``Network.prepare`` leaves it.
        sources: token ids, ``(B, S)``, each with its end, padded on the right.
        options: what to search for.
        prefixes: the ids that each sentence's hypotheses are to begin with.

    Returns:
        For each sentence its hypotheses, best first, at most ``beam`` of them.
    """
    return run(Decoding(network, *network.read(sources)), sources, options, prefixes)


def run(
    decoding: Decoding, sources: Tensor, options: SearchOptions, prefixes: Sequence[Sequence[int]] | None = None
) -> list[list[Found]]:
    """Do what ``search`` does with a decoder that has read the sources."""
    found: list[list[Found]] = [[] for _ in sources]
    for sentence, hypothesis in _hypotheses(decoding, sources, options, prefixes):
        found[sentence].append(hypothesis)
    return [sorted(hypotheses, key=lambda one: -one.score) for hypotheses in found]


def _hypotheses(
    decoding: Decoding, sources: Tensor, options: SearchOptions, prefixes: Sequence[Sequence[int]] | None
) -> Iterator[tuple[int, Found]]:
    """Yield (sentence, hypothesis) as they end."""
    device = sources.device
    places = decoding.positions - 1
    beam = min(options.beam, decoding.vocabulary - 1)
    lengths = sources.ne(PAD).sum(1)
    room = places if options.max_len_b is None else options.max_len_b
    longest = (lengths * options.max_len_a + room).clamp(0, places).long().tolist()
    forced = pad(prefixes).to(device) if prefixes and any(prefixes) else None
    uniform = _draw(sources, options, max(longest), beam) if options.sampling else None
    going = list(range(len(sources)))  # the sentences of the batch that are not finished
    left = [beam] * len(sources)  # hypotheses that each may still end
    tokens = torch.full((len(sources), 1, 1), EOS, device=device)  # of all hypotheses, (B, W, length)
    totals = torch.zeros(len(sources), 1, device=device)  # logarithms of their probabilities
    ended = torch.zeros(len(sources), beam, dtype=torch.bool, device=device)  # samples only
    for step in range(max(longest) + 1):
        logprobs = decoding.step(tokens[:, :, -1]).float().log_softmax(-1)
        at_end = torch.tensor([most == step for most in longest], device=device) if step in longest else None
        _restrict(logprobs, step, at_end, forced, options.min_len)
        if uniform is not None:
            scores, ids, parents = _sample(logprobs, totals, uniform[:, step], beam)
            scores = scores.masked_fill(ended, -math.inf)
        else:
            scores, ids, parents = _best(logprobs, totals, 2 * beam)
        ends = ids.eq(EOS)
        done = (ends & scores.ne(-math.inf))[:, :beam]
        finished = {row for row, most in enumerate(longest) if most == step}
        rows, columns = [], []  # of the hypotheses that end here
        for row, which in enumerate(done.tolist()):  # which a GPU is waited for, once a step
            sentence = going[row]
            ending = [column for column, ends_here in enumerate(which) if ends_here][: left[sentence]]
            left[sentence] -= len(ending)
            rows += [row] * len(ending)
            columns += ending
            if not left[sentence]:
                finished.add(row)
        if rows:
            ids_before = tokens[rows, parents[rows, columns], 1:].tolist()
            final = (scores[rows, columns] / (step + 1) ** options.lenpen).tolist()
            for row, ids_of_one, score in zip(rows, ids_before, final, strict=True):
                yield going[row], Found([*ids_of_one, EOS], score)
        if uniform is not None:
            ended = ended | done
            chosen = torch.arange(beam, device=device).expand(len(going), -1)
        else:
            order = torch.arange(ids.size(1), device=device) + ends * ids.size(1)
            chosen = order.topk(beam, largest=False).indices
        if finished:
            stay = [row for row in range(len(going)) if row not in finished]
            if not stay:
                return
            kept = torch.tensor(stay, device=device)
            going, longest = [going[row] for row in stay], [longest[row] for row in stay]
            decoding.keep(kept)
            scores, ids, parents, chosen = (x[kept] for x in (scores, ids, parents, chosen))
            tokens, ended = tokens[kept], ended[kept]
            forced = None if forced is None else forced[kept]
            uniform = None if uniform is None else uniform[kept]
        parents, totals, newest = (x.gather(1, chosen) for x in (parents, scores, ids))
        decoding.follow(parents)
        before = tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, tokens.size(2)))
        tokens = torch.cat([before, newest.unsqueeze(-1)], dim=2)


def _best(logprobs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sentence's ``count`` best continuations: their totals, ids and hypotheses, each ``(B, count)``."""
    sentences, width, vocabulary = logprobs.shape
    best, ids = _top(logprobs, min(count, vocabulary))  # of each hypothesis
    scores = (best + totals.unsqueeze(-1)).view(sentences, -1)
    scores, index = scores.topk(min(count, width * vocabulary - 1, scores.size(1)))  # fairseq leaves the pad out
    return scores, ids.view(sentences, -1).gather(1, index), index // best.size(-1)


def _top(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Do what ``topk`` does, ``(B, W, count)``: the ``count`` largest lie in as many blocks of the largest maxima."""
    whole = logprobs.size(-1) // BLOCK * BLOCK
    if whole < BLOCK * count:
        return logprobs.topk(count)
    blocks, rest = logprobs[:, :, :whole].unflatten(2, (-1, BLOCK)), logprobs[:, :, whole:]
    best = blocks.amax(-1).topk(count).indices.unsqueeze(-1)
    ids = (best * BLOCK + torch.arange(BLOCK, device=logprobs.device)).flatten(2)
    columns = torch.arange(whole, logprobs.size(-1), device=logprobs.device)
    ids = torch.cat([ids, columns.expand(*ids.shape[:2], -1)], dim=2)
    values = torch.cat([blocks.gather(2, best.expand(-1, -1, -1, BLOCK)).flatten(2), rest], dim=2)
    found = values.topk(count)
    return found.values, ids.gather(2, found.indices)


def _sample(logprobs: Tensor, totals: Tensor, uniform: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """Continue each hypothesis by a token drawn; the same three."""
    sentences, width, vocabulary = logprobs.shape
    logprobs, totals = logprobs.expand(-1, beam, -1), totals.expand(-1, beam)
    cumulated = logprobs.double().exp().cumsum(-1)
    drawn = torch.searchsorted(cumulated, uniform.unsqueeze(-1) * cumulated[:, :, -1:], right=True)
    drawn.clamp_(max=vocabulary - 1)
    parents = torch.arange(beam, device=drawn.device) % width
    scores = logprobs.gather(-1, drawn).squeeze(-1) + totals
    return scores, drawn.squeeze(-1), parents.expand(sentences, -1)


def _restrict(logprobs: Tensor, step: int, at_end: Tensor | None, forced: Tensor | None, min_len: int) -> None:
    """Take from log-probabilities, ``(B, W, vocabulary)``, what may not come at this step.

    Args:
        logprobs: of all hypotheses; changed in place.
        step: tokens that the hypotheses have.
        at_end: which sentences can have no token more but the end, ``(B,)``; None where none is.
        forced: what each is to begin with, ``(B, length)``, padded on the right.
        min_len: tokens at least, without the end.
    """
    logprobs[:, :, PAD] = -math.inf
    # the one token that a sentence may have, (B,); PAD where it has a choice
    wanted = forced[:, step] if forced is not None and step < forced.size(1) else None
    if at_end is not None:
        wanted = torch.where(at_end, EOS, PAD if wanted is None else wanted)
    if wanted is not None:
        index = wanted[:, None, None].expand(-1, logprobs.size(1), 1)
        score = logprobs.gather(2, index)
    if step < min_len:
        logprobs[:, :, EOS] = -math.inf
    if wanted is not None:  # where there is a choice the pad's score is what it was
        logprobs.masked_fill_(wanted.ne(PAD)[:, None, None], -math.inf).scatter_(2, index, score)


def _draw(sources: Tensor, options: SearchOptions, steps: int, beam: int) -> Tensor:
    """Draw numbers from 0 to 1, ``(B, steps + 1, beam)``, that depend on the seed and the sentence only."""
    drawn = []
    for sentence in sources.tolist():
        text = " ".join(str(token) for token in sentence if token != PAD)
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode(), options.seed))
        drawn.append(torch.rand(steps + 1, beam, generator=generator, dtype=torch.float64))
    return torch.stack(drawn).to(sources.device)
