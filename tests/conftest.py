"""One torch thread per test process: parallelism comes from pytest-xdist's processes."""

import torch

torch.set_num_threads(1)
