"""One thread a process: two spinning pools on a busy two-core machine run many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import torch

torch.set_num_threads(1)
