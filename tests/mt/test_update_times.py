"""The speed of updates, part by part: other work beside a rehearsal shows in it."""

from types import SimpleNamespace

from resmlp_mt.pipeline.update_times import UpdateTimes


def nothing(*args):
    """Stand for what an update calls."""


def test_a_speed_that_halves_shows_in_the_quarters():
    owner = SimpleNamespace(forward=nothing, optimizer_step=nothing)
    optimizer = SimpleNamespace(backward=nothing, all_reduce_grads=nothing, multiply_grads=nothing)
    trainer = SimpleNamespace(
        criterion=owner,
        task=owner,
        optimizer=optimizer,
        _aggregate_logging_outputs=nothing,
        _check_grad_norms=nothing,
        clip_grad_norm=nothing,
    )
    times = UpdateTimes(trainer)
    times.whole = [(1.0, 0.0, 100.0)] * 10 + [(2.0, 0.0, 100.0)] * 10
    assert times.quarters() == [100.0, 100.0, 50.0, 50.0]
    times.whole = times.whole[8:12]
    assert times.quarters() == [400 / 6]
