"""The stages of a recipe, and the fairseq programs that they run."""
