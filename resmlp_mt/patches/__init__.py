"""What the plugin mends in fairseq, a module for each fault; each has a test that fairseq itself still has it.

Three of them look at the options of a command line, by ``command_line``.
"""

from resmlp_mt.patches import (
    amp_unscaling,
    batch_positions,
    bfloat16,
    cpu_processes,
    equal_ranks,
    generation_shards,
    loading_errors,
    numpy_compat,
    replace_unk,
    shared_checkpoint,
    unsupported,
    whole_corpus,
    whole_paths,
)

PATCHES = (
    *(numpy_compat, whole_corpus, whole_paths, replace_unk, batch_positions, generation_shards, loading_errors),
    *(amp_unscaling, bfloat16, shared_checkpoint, equal_ranks, cpu_processes, unsupported),
)


def install() -> None:
    """Mend fairseq in this process; called once, as the plugin is imported."""
    for patch in PATCHES:
        patch.install()
