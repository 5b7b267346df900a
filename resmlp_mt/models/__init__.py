"""The models that the plugin registers with fairseq."""
