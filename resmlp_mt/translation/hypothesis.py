"""A translation, and how those of a long sentence's pieces become one."""

from dataclasses import dataclass

from resmlp_mt.text import space_between


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


def join(parts: list[list[Hypothesis]], pieces: list[str], line: str, lenpen: float) -> list[Hypothesis]:
    """Join the hypotheses of a sentence's pieces, best to best.

    Args:
        parts: the hypotheses of each piece.
        pieces: of the sentence, in order.
        line: the sentence, in which there may be white space between them.
        lenpen: that of their scores.
    """
    if len(parts) == 1:
        return parts[0]
    joined = []
    for hypotheses in zip(*parts, strict=False):
        lengths = [len(one.tokens) + 1 for one in hypotheses]
        total = sum(one.score * length**lenpen for one, length in zip(hypotheses, lengths, strict=True))
        tokens = tuple(token for one in hypotheses for token in one.tokens)
        space = space_between(one.text for one in hypotheses)
        text = space.join(one.text for one in hypotheses if one.text)
        alignment, target, source, end = [], 0, 0, 0
        for one, piece in zip(hypotheses, pieces, strict=True):
            start = line.index(piece, end)
            if 0 < start == end:  # it goes on with the word that the piece before it ends with
                source -= 1
            alignment += [(to + target, of + source) for to, of in one.alignment]
            if one.text:
                target += len(one.text.split()) - (not space)  # without a space the next text does too
            source, end = source + len(piece.split()), start + len(piece)
        joined.append(Hypothesis(text, total / sum(lengths) ** lenpen, tokens, tuple(alignment)))
    return joined
