"""Translation by fairseq's hub interface on a GPU: ``hub_translation CHECKPOINT DATA SENTENCEPIECE_MODEL``."""

import sys
from pathlib import Path

from resmlp_mt import ResMLPModel


def main() -> None:
    """Translate a batch, one sentence of which has no text."""
    checkpoint, data, sentencepiece = map(Path, sys.argv[1:])
    hub = ResMLPModel.from_pretrained(
        str(checkpoint.parent),
        checkpoint_file=checkpoint.name,
        data_name_or_path=str(data),
        bpe="sentencepiece",
        sentencepiece_model=str(sentencepiece),
    ).cuda()
    print(hub.translate(["The old teacher buys a red book.", "", "It is big."], beam=2, max_len_b=5))
