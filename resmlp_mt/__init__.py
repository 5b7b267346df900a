"""ResMLP for translation, as a fairseq plugin: ``fairseq-train --user-dir resmlp_mt --arch resmlp ...``.

Importing the package registers the model ``resmlp``, its architectures, the language model ``resmlp_lm`` and the
optimiser ``muon`` with fairseq.
"""

import sys

if not (sys.argv[0] == "-m" and "resmlp_mt" in sys.orig_argv):  # python -m resmlp_mt answers without fairseq
    from resmlp_core import __version__
    from resmlp_mt.plugin import ResMLPLanguageModel, ResMLPModel

    __all__ = ["ResMLPLanguageModel", "ResMLPModel", "__version__"]
