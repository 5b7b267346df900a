"""From the patches to one vector an image: their average, or the paper's Class-MLP."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resmlp_core import Affine, ChannelMLP, ResidualSublayer
from resmlp_core.layers.affine import Norm


class AveragePooling(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, B, C)`` to ``(B, C)``."""
        return x.mean(dim=0)


class ClassMLPLayer(nn.Module):
    """Update only the class embedding: from all positions by one row of weights, then by a channel MLP."""

    def __init__(
        self, positions: int, dim: int, hidden_dim: int, layer_scale: float, norm: Callable[[int], Norm]
    ) -> None:
        super().__init__()
        self.pre = norm(dim)
        self.cross_position = nn.Linear(positions + 1, 1)  # the class embedding comes first
        self.post = Affine(dim, scale=layer_scale)
        self.cross_channel: nn.Module = ResidualSublayer(dim, ChannelMLP(dim, hidden_dim), layer_scale, norm=norm)

    def fold_(self) -> None:
        """Absorb the Affs of the channel MLP; called by ``resmlp_core.fold``."""
        if isinstance(self.cross_channel, ResidualSublayer):
            self.cross_channel = self.cross_channel.make_folded()

    def forward(self, embedding: Tensor, patches: Tensor) -> Tensor:
        """Map the class embedding ``(1, B, C)`` and the patches ``(N, B, C)`` to a class embedding ``(1, B, C)``."""
        inputs = self.pre(torch.cat([embedding, patches])).flatten(1)
        mixed = self.cross_position.weight @ inputs + self.cross_position.bias
        return self.cross_channel(embedding + self.post(mixed.view_as(embedding)))


class ClassMLPPooling(nn.Module):
    """Class-MLP: a learned embedding that two layers fill from the patches, which stay as they are (as in CaiT).

    Args:
        positions: number of patches.
        dim: number of channels.
        hidden_dim: of the channel MLPs.
        layer_scale: start of the post-Affs' α.
        norm: makes what stands before each mixer.
    """

    def __init__(
        self, positions: int, dim: int, hidden_dim: int, layer_scale: float, norm: Callable[[int], Norm]
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(dim))
        self.layers = nn.ModuleList(ClassMLPLayer(positions, dim, hidden_dim, layer_scale, norm) for _ in range(2))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, B, C)`` to ``(B, C)``."""
        embedding = self.embedding.expand(1, x.size(1), -1)
        for layer in self.layers:
            embedding = layer(embedding, x)
        return embedding.squeeze(0)
