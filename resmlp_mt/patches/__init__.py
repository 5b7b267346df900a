"""What the plugin mends in fairseq, a module for each fault; each has a test that fairseq itself still has it."""

from resmlp_mt.patches import (
    amp_unscaling,
    bfloat16,
    cpu_processes,
    equal_ranks,
    numpy_compat,
    replace_unk,
    shared_checkpoint,
    unsupported,
    whole_corpus,
)


def install() -> None:
    """Mend fairseq in this process; called once, as the plugin is imported."""
    for patch in (
        *(numpy_compat, whole_corpus, replace_unk),
        *(amp_unscaling, bfloat16, shared_checkpoint, equal_ranks, cpu_processes, unsupported),
    ):
        patch.install()
