"""What a translation's words look at in the source: cross-attention, by layer and head, and the alignment it gives."""

from collections.abc import Sequence

import torch
from torch import Tensor

from resmlp_mt.translation.decoding import Decoding
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.vocabulary import EOS, words_of


@torch.inference_mode()
def cross_attention(network: Network, sources: Tensor, targets: Tensor) -> Tensor:
    """Return the weights of cross-attention while translations are read.

    Args:
        network: as ``Network.prepare`` leaves it.
        sources: token ids, ``(B, S)``, each with its end, padded on the right.
        targets: those of the translations, ``(B, T)``, likewise.

    Returns:
        ``(layers, B, heads, T, S)``: row t is what the decoder looks at to write token t.
    """
    decoding = Decoding(network, *network.read(sources))
    read = torch.cat([torch.full_like(targets[:, :1], EOS), targets[:, :-1]], dim=1)
    weights = []
    for tokens in read.split(1, dim=1):
        decoding.step(tokens)
        weights.append(torch.stack(decoding.attention))
    return torch.cat(weights, dim=3)


def align(weights: Tensor, source_pieces: Sequence[str], target_pieces: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Align each word of a translation with the source word that it looks at most.

    Args:
        weights: of the last layer, ``(heads, T, S)``, of one sentence, on the CPU.
        source_pieces: the source's, without the end.
        target_pieces: the translation's, likewise.

    Returns:
        Pairs of indices, of the translation's word and of the source's.
    """
    if not source_pieces or not target_pieces:
        return ()
    sources, targets = (torch.tensor(words_of(pieces)) for pieces in (source_pieces, target_pieces))
    mean = weights.mean(0)[: len(targets), : len(sources)].float()
    by_words = torch.zeros(int(targets[-1]) + 1, int(sources[-1]) + 1)
    by_words.index_put_((targets.unsqueeze(1), sources.unsqueeze(0)), mean, accumulate=True)
    return tuple(enumerate(by_words.argmax(1).tolist()))
