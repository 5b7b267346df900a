"""What the plugin mends in fairseq, a module for each fault; each has a test that fairseq itself still has it."""

from resmlp_mt.patches import (
    batch_positions,
    generation_shards,
    loading_errors,
    numpy_compat,
    replace_unk,
    whole_corpus,
    whole_paths,
)

PATCHES = (numpy_compat, whole_corpus, whole_paths, replace_unk, batch_positions, generation_shards, loading_errors)


def install() -> None:
    """Mend fairseq in this process; called once, as the plugin is imported."""
    for patch in PATCHES:
        patch.install()
