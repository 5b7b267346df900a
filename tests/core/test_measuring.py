"""What is measured of a run as it goes: the largest batch that fits, the largest activation."""

import pytest
import torch
from torch import nn

from resmlp_core.common.measuring import search_largest, watching_activations


@pytest.mark.parametrize(("most", "largest"), [(30000, 28672), (4096, 4096), (1000, 896), (0, 0)])
def test_the_largest_batch_is_tried_to_an_eighth(most, largest):
    assert search_largest(lambda size: size <= most, 4096, lambda: 60.0) == (largest, True)


def test_no_batch_is_tried_that_would_take_longer_than_there_is_time():
    clock = iter([10.0, 6.0, 6.0])  # the first takes four seconds, so the second would take eight
    assert search_largest(lambda size: True, 1000, lambda: next(clock)) == (1000, False)


def test_the_largest_activation_is_seen_where_it_is_not_finite():
    layer = nn.Linear(1, 1)
    with watching_activations(nn.Sequential(layer, nn.ReLU())) as largest:
        nn.init.constant_(layer.weight, -3.0)
        nn.init.zeros_(layer.bias)
        layer(torch.ones(1, 1))
        assert largest() == 3.0
        layer(torch.full((1, 1), float("nan")))
        assert largest() != largest()
