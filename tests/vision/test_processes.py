"""The group of processes that train together."""

from unittest import mock

import pytest
import torch.distributed as dist

from resmlp_core.files import UserError
from resmlp_vision.processes import join_processes, leave_processes


def test_after_an_error_a_process_does_not_wait_for_the_others():
    """Under NCCL leaving waits for them, who wait for this one; torchrun stops them once it has ended."""
    join_processes("cpu")
    with mock.patch("torch.distributed.get_world_size", return_value=2), pytest.raises(UserError):
        try:
            raise UserError("is the disk full?")
        finally:
            leave_processes()
    assert dist.is_initialized()
    leave_processes()
    assert not dist.is_initialized()
