"""A page in which a pointer shows what each token of a translation looks at, and what each position of A reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_core.inspect.html import Section, write_page
from resmlp_mt.translation.attention import cross_attention
from resmlp_mt.translation.batches import pad
from resmlp_mt.translation.translator import Translator

MOST = 20  # sentences; a page of 20 with 6 layers of 8 heads comes to a few megabytes
TEXT = (
    "Point at a token, or go to it by the Tab key. A token of the translation colours what cross-attention looks at in "
    "the source while it is written, and what A reads in the translation so far. A token of the source colours what A "
    "reads there, and what looks at it in the translation. Click to hold a token."
)


def write_show(translator: Translator, sentences: Sequence[str], output: Path, **options: Any) -> None:
    """Translate sentences and write the page of them; one that is longer than the model is shown in its pieces.

    Args:
        translator: translates them.
        sentences: a few; those without text are left out.
        output: the file of HTML to write, which needs no other file; what it does in the browser is in ``show.html``.
        options: of ``Translator.stream``.

    Raises:
        UserError: none of them has text.
    """
    pieces = [piece for sentence in sentences for piece in translator.split(sentence) if piece]
    if not pieces:
        raise UserError(f"there is nothing to show in {output}: the input has no text")
    found = [best for best, *_ in translator.translate(pieces, details=True, **options)]
    pairs = [pair_of(translator, piece, one.tokens) for piece, one in zip(pieces, found, strict=True)]
    network = translator.network
    content = {
        "heads": network.decoder.layers[0].encoder_attn.heads,
        "pairs": pairs,
        "encoder": position_weights(network.encoder, max(len(pair["source"]) for pair in pairs)),
        "decoder": position_weights(network.decoder, max(len(pair["target"]) for pair in pairs)),
    }
    template = Path(__file__).with_name("show.html").read_text(encoding="utf-8")
    html = template.replace("{{data}}", json.dumps(content).replace("<", "\\u003c"))
    facts = {
        "languages": " to ".join(translator.languages),
        "sentences": str(len(pairs)),
        "layers": f"{len(content['encoder'])} of the encoder, {len(content['decoder'])} of the decoder",
        "heads of cross-attention": str(content["heads"]),
    }
    write_page(output, "What a translation looks at", facts, [Section("Sentences", TEXT, html=html)])


def pair_of(translator: Translator, text: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Return what the page needs of a sentence and its translation.

    ``source`` and ``target`` are pieces, with an empty one for the end; ``attention`` is cross-attention's weights in
    thousandths, ``(layers, heads, target, source)``.
    """
    vocabulary = translator.vocabulary
    source, target = vocabulary.encode(text), vocabulary.target_ids(tokens)
    weights = cross_attention(translator.network, *(pad([ids]).to(translator.device) for ids in (source, target)))
    return {
        "source": [*vocabulary.pieces(text), ""],
        "target": [*tokens, ""],
        "attention": (weights[:, 0].float() * 1000).round().int().tolist(),
    }


def position_weights(side: Any, positions: int) -> list[list[list[float]]]:
    """Return A of each layer of an encoder or a decoder, for the first positions, to four digits."""
    mixers = [layer.cross_position.mixer for layer in side.layers]
    matrices = [mixer.get_parameter(mixer.matrix)[:positions, :positions].float().tolist() for mixer in mixers]
    return [[[round(weight, 4) for weight in row] for row in matrix] for matrix in matrices]
