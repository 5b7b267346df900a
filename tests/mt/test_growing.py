"""A larger A begins from a smaller one: sentences that fitted before come out as before."""

import pytest
import torch

from .conftest import VARIANTS, collate, every_variant, small_model

SMALLER, LARGER = 12, 20


def grow(name: str, **positions: int):
    """Return a model and one of more positions that has begun from it."""
    old, new = small_model(**VARIANTS[name]), small_model(random=False, **VARIANTS[name], **positions)
    new.positions_may_grow = True
    start = {key: value.clone() for key, value in new.state_dict().items()}
    new.load_state_dict(old.state_dict())
    return old, new, start


@every_variant
@pytest.mark.parametrize("sides", [("source", "target"), ("source",), ("target",)])
def test_what_fitted_before_comes_out_as_before(name, sides):
    old, new, _ = grow(name, **{f"max_{side}_positions": LARGER for side in sides})
    source = collate([[4, 5, 6, 2], [*range(7, 7 + SMALLER - 1), 2]], left_pad=True)
    target = collate([[2, 9, 8], [2, *range(7, 7 + SMALLER - 1)]], left_pad=False)
    with torch.no_grad():
        expected, grown = (model.eval()(source, None, target)[0] for model in (old, new))
    torch.testing.assert_close(grown, expected)
    assert new.max_positions() == tuple(LARGER if side in sides else SMALLER for side in ("source", "target"))


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_new_positions_are_as_at_a_start(side):
    old, new, start = grow("paper", max_source_positions=LARGER, max_target_positions=LARGER)
    name = f"{side}.layers.0.cross_position.mixer."
    weight, bias = new.state_dict()[f"{name}weight"], new.state_dict()[f"{name}bias"]
    assert torch.equal(weight[:SMALLER, :SMALLER], old.state_dict()[f"{name}weight"])
    assert torch.equal(weight[SMALLER:], start[f"{name}weight"][SMALLER:])
    assert torch.equal(weight[:, SMALLER:], start[f"{name}weight"][:, SMALLER:])
    assert weight[SMALLER:].abs().sum() > 0 and (side == "encoder" or not weight.triu(1).any())
    assert bias.tolist() == [*old.state_dict()[f"{name}bias"].tolist(), *[0] * (LARGER - SMALLER)]


def test_it_grows_neither_unasked_nor_smaller():
    old, larger = small_model(), small_model(max_source_positions=LARGER)
    with pytest.raises(RuntimeError, match="size mismatch for encoder"):
        larger.load_state_dict(old.state_dict())
    old.positions_may_grow = True
    with pytest.raises(RuntimeError, match="size mismatch for encoder"):
        old.load_state_dict(larger.state_dict())
