"""C · GELU(B · x), the cross-channel part of the layer (paper, equation 3)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core.layers.onednn import by_onednn


class ChannelMLP(nn.Module):
    """Two linear layers over the channels with GELU between, the same for every position.

    Args:
        dim: number of channels.
        hidden_dim: width between the two; the paper's is ``4 * dim``.
        activation: applied between the two.
        dropout: module applied after the activation, for example ``nn.Dropout``.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)  # B
        self.fc2 = nn.Linear(hidden_dim, dim)  # C
        self.activation = activation
        self.dropout = dropout or nn.Identity()

    @by_onednn
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., dim)`` to ``(..., dim)``."""
        return self.fc2(self.dropout(self.activation(self.fc1(x))))
