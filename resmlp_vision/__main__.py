"""List the commands: ``python -m resmlp_vision --help``."""

import argparse

COMMANDS = """commands, each with --help:
  python -m resmlp_vision.train     train a classifier
  python -m resmlp_vision.dino      train a backbone without labels
  python -m resmlp_vision.evaluate  measure a classifier, or its features, on a data set
  python -m resmlp_vision.classify  name what is on images
  resmlp-inspect                    draw what a model has learned
"""

parser = argparse.ArgumentParser(
    prog="python -m resmlp_vision",
    description="ResMLP for images, on timm's parts.",
    epilog=COMMANDS,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
parser.parse_args()
parser.print_help()
