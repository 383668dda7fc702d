"""One thread of torch: in tests that share the machine, and in the processes that they fork."""

import os
from functools import partial

import torch


def one_thread():
    """Torch's own work runs in one thread from here on, in forks, too.

    A fork makes its pool of threads anew where it first asks for it. If several threads ask at once, as transformers
    does when it loads weights, one of them may find none ("Invalid thread pool"): so each fork asks at its start.
    """
    torch.set_num_threads(1)
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
