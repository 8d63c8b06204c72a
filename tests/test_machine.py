"""What a device does at best can be measured."""

import torch

from tarflow.machine.device import copy_bandwidth, fastest, matrix_rate


def test_rates_are_positive_and_count_what_was_done():
    assert matrix_rate("cpu", torch.float32, largest=256) > 0
    assert copy_bandwidth("cpu", megabytes=8) > 0


def test_the_first_run_does_not_count():
    runs = []
    assert fastest(lambda: runs.append(None), "cpu", repeats=3) >= 0
    assert len(runs) == 4
