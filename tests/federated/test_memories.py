"""What clients keep lies where it is until it is wanted: a round reads those of its own clients, a view its own."""

import pickle

import pytest
import torch
from small import SmallPopulation, small_setting

from fcit_ray.federated.federation import Federation
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.storage.trees import StoredTree, lay_out, raw

B = "layer.lora_B.s0.weight"


@pytest.fixture
def stored():
    """Trees on a disk that notes whose bytes were read."""
    read = []

    def store(whose, tree):
        nodes, tensors, _ = lay_out(tree)
        content = b"".join(bytes(raw(tensor)) for tensor in tensors)

        def bring(start, count):
            read.append(whose)
            return bytearray(content[start : start + count])

        return StoredTree(nodes, bring)

    return store, read


def test_a_round_reads_what_its_clients_keep_when_their_jobs_are_sent(stored):
    store, read = stored
    run = Federation(Finetune(), FedAvg(), SmallPopulation(((0, 0),)), small_setting(1, 1))
    state = run.start({B: torch.zeros(2)})
    memories = {str(k): store(k, {"local": {"c": torch.full((3,), float(k))}}) for k in range(40)}
    jobs = run.plan(type(state)(**{**vars(state), "memories": memories}))
    assert read == []
    sent = pickle.loads(pickle.dumps(jobs[1]))
    assert read == [1]
    assert sent.memory["local"]["c"].tolist() == [1.0, 1.0, 1.0]
    assert type(sent.memory) is dict


def test_views_are_read_one_at_a_time_and_value_by_value(stored):
    store, read = stored
    params = {B: torch.zeros(2), "layer.lora_A.s0.weight": torch.ones(2)}
    memories = {str(k): store(k, {"personal": {B: torch.full((2,), float(k))}}) for k in (11, 2)}
    views = FedSA().views(params, memories)
    assert list(views) == ["client_2", "client_11"]
    assert read == []
    assert views["client_11"][B].tolist() == [11.0, 11.0]
    assert read == [11]
    assert {name: value.tolist() for name, value in views["client_2"].items()} == {
        B: [2.0, 2.0], "layer.lora_A.s0.weight": [1.0, 1.0],
    }  # fmt: skip
    assert B in views["client_11"]
    assert read == [11, 2]
