"""A gate on what a mixer gives: positions pass what the channels at their own place ask for (beyond the paper)."""

import torch
from torch import Tensor, nn


class GatedMixer(nn.Module):
    """mixer(x) ⊙ σ(G x + g), with G ∈ R^{dim×dim}: a product where the paper's layer is linear in what it mixes.

    Args:
        mixer: mixes positions and keeps the shape ``(T, B, dim)``.
        dim: number of channels.
    """

    def __init__(self, mixer: nn.Module, dim: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.gate = nn.Linear(dim, dim)

    def forward(self, x: Tensor, **mixer_options: object) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``; the options go to the mixer."""
        return self.mixer(x, **mixer_options) * torch.sigmoid(self.gate(x))
