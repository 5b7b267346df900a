"""The paper's layer and its parts, which need only PyTorch."""
