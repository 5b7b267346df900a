"""Print where the plugin lies, for ``fairseq-train --user-dir $(python -m resmlp_mt)``."""

import argparse
from pathlib import Path

COMMANDS = """commands, each with --help:
  python -m resmlp_mt.recipe     run a recipe, from raw text to BLEU
  python -m resmlp_mt.prepare    learn a vocabulary, and make a corpus binary for fairseq-train
  python -m resmlp_mt.average    average the weights of checkpoints
  python -m resmlp_mt.score      score translations: BLEU and chrF
  python -m resmlp_mt.translate  translate files, documents, or what is typed
  python -m resmlp_mt.export     write a model as a folder that needs no fairseq
  resmlp-inspect                 draw what a model has learned
"""

parser = argparse.ArgumentParser(
    prog="python -m resmlp_mt",
    description="Print where the plugin lies, for fairseq-train --user-dir $(python -m resmlp_mt).",
    epilog=COMMANDS,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
parser.parse_args()
print(Path(__file__).parent)
