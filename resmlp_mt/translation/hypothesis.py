"""A translation, and how those of a long sentence's pieces become one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """A translation.

    Attributes:
        text: as it is to be read.
        score: the logarithm of its probability, divided by its length to the power ``lenpen``.
        tokens: its pieces.
        alignment: for each of its words the source word that cross-attention looks at most, as pairs of indices
            (of the translation's word, of the source's); empty unless asked for.
    """

    text: str
    score: float
    tokens: tuple[str, ...] = ()
    alignment: tuple[tuple[int, int], ...] = ()


def join(parts: list[list[Hypothesis]], sources: list[str], lenpen: float) -> list[Hypothesis]:
    """Join the hypotheses of a sentence's pieces, best to best."""
    if len(parts) == 1:
        return parts[0]
    joined = []
    for hypotheses in zip(*parts, strict=False):
        lengths = [len(one.tokens) + 1 for one in hypotheses]
        total = sum(one.score * length**lenpen for one, length in zip(hypotheses, lengths, strict=True))
        tokens = tuple(token for one in hypotheses for token in one.tokens)
        text = " ".join(one.text for one in hypotheses if one.text)
        alignment, target, source = [], 0, 0
        for one, piece in zip(hypotheses, sources, strict=True):
            alignment += [(to + target, of + source) for to, of in one.alignment]
            target, source = target + len(one.text.split()), source + len(piece.split())
        joined.append(Hypothesis(text, total / sum(lengths) ** lenpen, tokens, tuple(alignment)))
    return joined
