"""The benchmark of a client's update measures what its rows say."""

import runpy

import pytest
import torch
from repository import ROOT

from fcit_ray.config.schema import Model

BENCHMARK = ROOT / "benchmarks" / "client_update.py"


@pytest.mark.parametrize("side", ["ours", "stock"])
def test_only_the_turns_with_checkpointing_compute_a_layer_twice(side):
    benchmark = runpy.run_path(str(BENCHMARK))
    cpu = torch.device("cpu")
    base = benchmark["build_base"]("tiny", torch.float32, cpu, None)
    config = Model(rank=64, alpha=128, dropout=0.05, dtype="float32")
    turn, _ = benchmark[side](base, benchmark["make_batch"](base, 1, 72, 4), 1, config, cpu)
    passes = []
    base.model.language_model.layers[0].self_attn.register_forward_hook(lambda *a: passes.append(1))
    counts = []
    for checkpointing in (False, True, False, True):  # turns take turns, on one model
        passes.clear()
        turn(checkpointing)
        counts.append(len(passes))
    assert counts == [1, 2, 1, 2]
