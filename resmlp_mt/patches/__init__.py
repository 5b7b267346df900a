"""What the plugin mends in fairseq, a module for each fault; each has a test that fairseq itself still has it."""

from resmlp_mt.patches import numpy_compat, replace_unk, whole_corpus


def install() -> None:
    """Mend fairseq in this process; called once, as the plugin is imported."""
    for patch in (numpy_compat, whole_corpus, replace_unk):
        patch.install()
