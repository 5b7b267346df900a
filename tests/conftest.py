"""Settings for all tests: the same draws in every run, and one thread, as the models here are too small to share."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
torch.set_num_threads(1)
