"""ResMLP for translation: ``load_translator``, and a fairseq plugin, ``fairseq-train --user-dir resmlp_mt ...``.

The plugin registers the model ``resmlp``, its architectures, the language model ``resmlp_lm`` and the optimiser
``muon`` with fairseq. It is loaded with the package where fairseq is loaded already, as by ``--user-dir``, and else by
the first use of what needs it; translating does not.
"""

import sys
from importlib import import_module
from typing import Any

LAZY = {
    "__version__": "resmlp_core",
    "load_translator": "resmlp_mt.translation.translator",
    "ResMLPModel": "resmlp_mt.plugin",
    "ResMLPLanguageModel": "resmlp_mt.plugin",
}
__all__ = ["ResMLPLanguageModel", "ResMLPModel", "__version__", "load_translator"]

if not (sys.argv[0] == "-m" and "resmlp_mt" in sys.orig_argv):  # python -m resmlp_mt answers without PyTorch
    import_module("resmlp_core.common.environment")  # before PyTorch is loaded
if sys.modules.get("fairseq"):
    import_module("resmlp_mt.plugin")


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)
