"""The paper's layer and its parts, in PyTorch alone."""
