"""Translating with a trained model in PyTorch and sentencepiece, without fairseq."""
