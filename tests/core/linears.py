"""Linear layers of any size, for property-based tests."""

import torch
from hypothesis import strategies as st
from torch import nn


@st.composite
def linears(draw: st.DrawFn) -> tuple[nn.Linear, torch.Tensor]:
    """Draw a linear layer and an input for it, of any number of dimensions and in either order in memory."""
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    linear = nn.Linear(inputs, outputs, bias=draw(st.booleans()))
    transposed = draw(st.booleans())
    return linear, torch.randn(inputs, *shape).movedim(0, -1) if transposed else torch.randn(*shape, inputs)
