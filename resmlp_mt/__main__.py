"""Print where the plugin lies, for ``fairseq-train --user-dir $(python -m resmlp_mt)``."""

from pathlib import Path

print(Path(__file__).parent)
