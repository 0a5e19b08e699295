"""DISCO against the paper: who trains which subspace, how tokens move, how a sample mixes the subspaces.

Clients' tokens are mostly (cos a, sin a): their similarity is cos of the angle between them.
"""

import math

import pytest
import torch
from small import COLLATOR, END, PAD, SmallPopulation, client, random_params, sample, small_bank, small_setting, trainer

from fcit_ray.errors import ConfigError
from fcit_ray.experiment.components import make
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune
from fcit_ray.types import Assignment, Client, ClientUpdate, Setting

SETTING = Setting(num_stages=1, num_rounds=1, num_clients=9, clients_per_round=9, seed=0)


def at(degrees, num_examples=10, index=0):
    radians = math.radians(degrees)
    return client(index, [math.cos(radians), math.sin(radians)], num_examples)


def knowing(*degrees, mass=100.0):
    return {
        "tokens": torch.stack([at(angle).feature for angle in degrees]),
        "mass": torch.full((len(degrees),), mass, dtype=torch.float64),
    }


def empty(method=None):
    return dict((method or Disco()).init({}, SETTING))


def assigned(method, knowledge, clients):
    assignments = method.assign(knowledge, 0, clients)
    assert all(len(a.train) == 1 and not a.frozen for a in assignments)
    return [a.train[0] for a in assignments]


def update(subspace, who: Client, **delta):
    return ClientUpdate(stage=0, round=0, client=who, assignment=Assignment(train=(subspace,)), delta=delta)


# Training: dynamic knowledge organisation


def test_disco_opens_a_subspace_per_unmatched_token():
    # cos 90 = 0 and cos 45 = 0.71 are below 0.9
    assert assigned(Disco(), empty(), [at(0), at(90), at(45)]) == [0, 1, 2]


def test_similar_clients_share_the_subspace_they_open():
    # cos 10 = 0.985
    assert assigned(Disco(), empty(), [at(0), at(90), at(10), at(80)]) == [0, 1, 0, 1]


def test_a_known_token_takes_its_client_and_leaves_new_ones_their_own():
    assert assigned(Disco(), knowing(0, 90), [at(85), at(180), at(5)]) == [1, 2, 0]


def test_the_nearest_of_several_known_tokens_takes_the_client():
    # 12 degrees: cos 12 = 0.978 and cos 8 = 0.990 both match
    assert assigned(Disco(), knowing(0, 20), [at(12)]) == [1]


@pytest.mark.parametrize("known", [True, False])
def test_a_similarity_of_exactly_tau_matches(known):
    # (1, 1, 1, 1) has length 2 and (1, 0, 0, 0) has length 1, so their cosine is 1/2 without rounding.
    token, feature = client(0, [1, 0, 0, 0]), client(1, [1, 1, 1, 1])
    knowledge = {"tokens": token.feature[None], "mass": torch.ones(1, dtype=torch.float64)} if known else empty()
    clients = [feature] if known else [token, feature]
    assert assigned(Disco(threshold=0.5), knowledge, clients)[-1] == 0
    assert assigned(Disco(threshold=0.5 + 1e-6), knowledge, clients)[-1] == 1


def test_the_length_of_a_token_does_not_matter():
    assert assigned(Disco(), empty(), [client(0, [1, 0]), client(1, [500, 1]), client(2, [0, 1e-3])]) == [0, 0, 1]


def test_grouping_is_greedy_and_not_transitive():
    # 0-20 and 20-40 resemble each other (cos 20 = 0.94), 0-40 do not (0.77): the first client takes 20 and leaves 40.
    assert assigned(Disco(), empty(), [at(0), at(20), at(40)]) == [0, 0, 1]
    # From the middle one takes both: the order of selection decides.
    assert assigned(Disco(), empty(), [at(20), at(0), at(40)]) == [0, 0, 0]


def test_each_client_is_in_exactly_one_group():
    # The released slip: 40 resembles 20 although 20 was claimed by 0, so there 20 is counted in both groups. Here the
    # second token is 40's alone.
    clients = [at(0, 10), at(20, 30), at(40, 20)]
    method = Disco()
    subspaces = assigned(method, empty(), clients)
    knowledge = method.absorb(empty(), [update(s, c) for s, c in zip(subspaces, clients, strict=True)])
    assert knowledge["mass"].tolist() == [40.0, 20.0]
    torch.testing.assert_close(knowledge["tokens"][1], at(40).feature)


def test_a_lone_tiny_client_joins_the_nearest_group():
    # 1 of 2,001 samples is below 1e-3 of them; 60 degrees are nearer to 90 than to 0.
    clients = [at(0, 1000), at(60, 1), at(90, 1000)]
    assert assigned(Disco(), empty(), clients) == [0, 1, 1]
    # 3 of 2,003 are not below it.
    assert assigned(Disco(), empty(), [at(0, 1000), at(60, 3), at(90, 1000)]) == [0, 1, 2]
    # Two tiny clients alike are no lone client.
    assert assigned(Disco(), empty(), [at(0, 2000), at(60, 1), at(90, 2000), at(61, 1)]) == [0, 1, 2, 1]
    assert assigned(Disco(min_group_frac=0), empty(), clients) == [0, 1, 2]


def test_a_lone_tiny_client_with_no_group_to_join_opens_its_own():
    assert assigned(Disco(), knowing(0), [at(90, 1), at(0, 5000)]) == [1, 0]


def test_a_full_bank_gives_the_nearest_token():
    # Nothing is above 0.9, but there is no third subspace: 50 is nearer to 90 (40 away) than to 0, 40 nearer to 0.
    assert assigned(Disco(num_subspaces=2), knowing(0, 90), [at(50), at(40), at(180)]) == [1, 0, 1]


def test_a_bank_that_fills_up_within_the_round_counts_the_subspace_just_opened():
    # 90 opens the last one; 200 is nearer to 90 (110 away) than to 0 (160 away), 300 to 0 (60 away).
    assert assigned(Disco(num_subspaces=2), knowing(0), [at(90), at(200), at(300)]) == [1, 1, 0]


def test_one_subspace_takes_everybody():
    assert assigned(Disco(num_subspaces=1), empty(), [at(0), at(90), at(200)]) == [0, 0, 0]


def test_a_threshold_of_minus_one_matches_everything():
    assert assigned(Disco(threshold=-1), empty(), [at(0), at(90), at(170)]) == [0, 0, 0]


def test_assigning_learns_nothing():
    knowledge = knowing(0)
    assigned(Disco(), knowledge, [at(90), at(180)])
    assert len(knowledge["tokens"]) == 1


# Tokens


def test_a_token_is_the_running_mean_over_all_samples_seen():
    # Round 1: (100 * (1, 0) + 200 * (0, 1)) / 300 = (1/3, 2/3), mass 300.
    # Round 2: (300 * (1/3, 2/3) + 100 * (1, 1)) / 400 = (200, 300) / 400 = (1/2, 3/4), mass 400.
    method = Disco()
    first = [update(0, client(0, [1, 0], 100)), update(0, client(1, [0, 1], 200))]
    knowledge = method.absorb(empty(), first)
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[1 / 3, 2 / 3]]))
    assert knowledge["mass"].tolist() == [300.0]
    knowledge = method.absorb(knowledge, [update(0, client(2, [1, 1], 100))])
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[0.5, 0.75]]))
    assert knowledge["mass"].tolist() == [400.0]


def test_counts_beyond_256_are_kept():
    # The released slip: in bfloat16, 256 + 1 is 256, so a token seen often never moves its mass again. Here 300 rounds
    # of one sample each count 300, and the token is the plain mean of 300 features, half of them (1, 0).
    assert (torch.tensor(256.0, dtype=torch.bfloat16) + 1).item() == 256.0
    method, knowledge = Disco(), empty()
    for turn in range(300):
        feature = [1.0, 0.0] if turn % 2 else [0.0, 1.0]
        knowledge = method.absorb(knowledge, [update(0, client(0, feature, 1))])
    assert knowledge["mass"].tolist() == [300.0]
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[0.5, 0.5]]), rtol=0, atol=1e-5)


def test_the_whole_sum_is_divided():
    # The released slip divides only the new part: 100 * (1, 0) + 50 * (0, 1) / 150 = (100, 1/3), almost the old token
    # and a hundred times too long. Right: (100, 50) / 150.
    knowledge = Disco().absorb(knowing(0, mass=100.0), [update(0, client(0, [0, 1], 50))])
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[2 / 3, 1 / 3]]))


def test_only_the_tokens_of_this_rounds_clients_move():
    before = knowing(0, 90)
    after = Disco().absorb(before, [update(1, at(80))])
    assert torch.equal(after["tokens"][0], before["tokens"][0])
    assert after["mass"].tolist() == [100.0, 110.0]
    assert not torch.equal(after["tokens"][1], before["tokens"][1])
    assert before["mass"].tolist() == [100.0, 100.0]  # the old knowledge is a value


def test_several_subspaces_opened_in_one_round_keep_their_order():
    # The second client's subspace comes first in the bank if it was opened first, whatever the order of the updates.
    knowledge = Disco().absorb(empty(), [update(1, at(90, 5)), update(0, at(0, 7))])
    assert knowledge["mass"].tolist() == [7.0, 5.0]
    torch.testing.assert_close(knowledge["tokens"][1], at(90).feature)


# Averaging


def test_a_subspace_is_averaged_over_its_own_clients_and_the_projector_over_all():
    # a.s0: (10 * 1 + 30 * 5) / 40 = 4; a.s1: 7, of its one client; projector: (10 * 0 + 30 * 4 + 60 * 2) / 100 = 2.4
    updates = [
        update(0, at(0, 10), **{"a.s0": torch.tensor([1.0]), "p": torch.tensor([0.0])}),
        update(0, at(0, 30), **{"a.s0": torch.tensor([5.0]), "p": torch.tensor([4.0])}),
        update(1, at(90, 60), **{"a.s1": torch.tensor([7.0]), "p": torch.tensor([2.0])}),
    ]
    delta = Aggregation().combine({}, updates, 0)
    assert delta.keys() == {"a.s0", "a.s1", "p"}
    torch.testing.assert_close(delta["a.s0"], torch.tensor([4.0]))
    torch.testing.assert_close(delta["a.s1"], torch.tensor([7.0]))
    torch.testing.assert_close(delta["p"], torch.tensor([2.4]))


# Inference: subspace selective activation


def test_the_gate_is_a_softmax_over_similarities():
    # cos = 1 and 0.8; over eps = 0.1: exp(-2) = 0.135335; 1 / 1.135335 = 0.880797 and 0.119203
    knowledge = {"tokens": torch.tensor([[2.0, 0.0], [4.0, 3.0]]), "mass": torch.ones(2)}
    gate = Disco(temperature=0.1).gate(knowledge, torch.tensor([[5.0, 0.0]]), 2)
    torch.testing.assert_close(gate, torch.tensor([[0.880797, 0.119203]]), rtol=0, atol=1e-6)


def test_every_sample_has_its_own_gate():
    # The released slip takes one gate from the batch's mean feature: here the mean is the same for both orders.
    features = torch.stack([at(0).feature, at(90).feature])
    gate = Disco().gate(knowing(0, 90), features, 2)
    alone = [Disco().gate(knowing(0, 90), feature[None], 2) for feature in features]
    torch.testing.assert_close(gate, torch.cat(alone), rtol=0, atol=1e-7)
    assert gate[0, 0] > 0.999
    assert gate[1, 1] > 0.999


def test_subspaces_not_opened_weigh_exactly_nothing():
    # In the released code an empty slot is a zero token: similarity 0 and a weight above zero.
    gate = Disco().gate(knowing(0, 90), torch.stack([at(30).feature, at(200).feature]), 8)
    assert gate.shape == (2, 8)
    assert torch.equal(gate[:, 2:], torch.zeros(2, 6))
    torch.testing.assert_close(gate.sum(1), torch.ones(2))


def test_before_anything_is_learned_there_is_no_gate():
    assert Disco().gate(empty(), torch.ones(2, 2), 8) is None


def test_one_subspace_weighs_exactly_one():
    assert torch.equal(Disco(num_subspaces=1).gate(knowing(0), torch.randn(5, 2), 1), torch.ones(5, 1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-40])
def test_a_cold_gate_is_the_nearest_subspace_alone(temperature):
    gate = Disco(temperature=temperature).gate(knowing(0, 90, 45), at(40).feature[None], 3)
    assert torch.equal(gate, torch.tensor([[0.0, 0.0, 1.0]]))


def test_a_hot_gate_weighs_all_alike():
    gate = Disco(temperature=1e6).gate(knowing(0, 90, 45), at(40).feature[None], 3)
    torch.testing.assert_close(gate, torch.full((1, 3), 1 / 3), rtol=0, atol=1e-6)


# Ablations of the activation


def mixed(activation, features, num_adapters=4):
    # Tokens at 0 and 90 degrees, of lengths 2 and 0.5: only their directions count.
    knowledge = {"tokens": torch.tensor([[2.0, 0.0], [0.0, 0.5]]), "mass": torch.ones(2)}
    return Disco(activation=activation).gate(knowledge, torch.tensor(features), num_adapters)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        # The features (3, 4), (-5, 0) and (0.8, 0.6) have the cosines (0.6, 0.8), (-1, 0) and (0.8, 0.6).
        ("argmax", [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]),
        # Neither a sum of one nor only positive weights: the second sample subtracts the first subspace.
        ("cosine", [[0.6, 0.8, 0, 0], [-1, 0, 0, 0], [0.8, 0.6, 0, 0]]),
        ("concatenation", [[1, 1, 0, 0]] * 3),
    ],
)
def test_the_ablations_weigh_as_their_names_say(activation, expected):
    gate = mixed(activation, [[3.0, 4.0], [-5.0, 0.0], [0.8, 0.6]])
    torch.testing.assert_close(gate, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)
    assert torch.equal(gate[:, 2:], torch.zeros(3, 2)), "subspaces not opened weigh exactly nothing"


def test_without_an_activation_named_disco_is_the_papers():
    features = [[3.0, 4.0], [-5.0, 0.0]]
    knowledge = {"tokens": torch.tensor([[2.0, 0.0], [0.0, 0.5]]), "mass": torch.ones(2)}
    assert torch.equal(Disco().gate(knowledge, torch.tensor(features), 4), mixed("softmax", features))


def test_argmax_is_the_limit_of_a_cold_softmax():
    draw = torch.Generator().manual_seed(0)
    knowledge = {"tokens": torch.randn(6, 5, generator=draw), "mass": torch.ones(6)}
    features = torch.randn(40, 5, generator=draw)
    nearest = Disco(activation="argmax").gate(knowledge, features, 8)
    assert torch.equal(nearest, Disco(temperature=1e-9).gate(knowledge, features, 8))
    assert set(nearest.argmax(1).tolist()) == set(range(6)), "a limit that says something: every token is somebody's"


def test_of_two_tokens_equally_near_argmax_takes_one():
    # A softmax, however cold, would give them half each.
    knowledge = {"tokens": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "mass": torch.ones(2)}
    gate = Disco(activation="argmax").gate(knowledge, torch.tensor([[1.0, 0.0]]), 2)
    assert gate.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("activation", ["argmax", "cosine", "concatenation"])
def test_no_ablation_gates_before_anything_is_learned(activation):
    assert Disco(activation=activation).gate(empty(), torch.ones(2, 2), 8) is None


def test_an_activation_nobody_has_heard_of_is_refused():
    with pytest.raises(ConfigError, match=r"method\.activation: expected softmax, argmax, cosine or concatenation"):
        make("method", {"name": "disco", "activation": "nearest"})


def answers(method, knowledge, params=None):
    """What a bank of these values says to two prompts."""
    bank = small_bank(method.num_adapters(SETTING))
    bank.pack(params or random_params(bank.params()))
    batch = COLLATOR.prompts([sample(1), sample(2)])
    gate = method.gate(knowledge, batch["features"], bank.num_adapters)
    return bank.generate(batch, gate, 12, eos_token_id=END, pad_token_id=PAD)


def test_concatenating_all_subspaces_is_adding_them_without_a_gate():
    draw = torch.Generator().manual_seed(1)
    knowledge = {"tokens": torch.randn(2, 4, generator=draw), "mass": torch.ones(2)}
    concatenated = Disco(num_subspaces=2, activation="concatenation")
    assert torch.equal(answers(concatenated, knowledge), answers(concatenated, empty()))  # no knowledge, no gate
    assert not torch.equal(answers(concatenated, knowledge), answers(Disco(num_subspaces=2), knowledge))


def test_concatenating_one_subspace_answers_as_finetune():
    setting = small_setting()
    learned = {}
    for method in (Finetune(), Disco(num_subspaces=1, activation="concatenation")):
        bank = small_bank()
        federation = Federation(method, FedAvg(), SmallPopulation(((0, 0), (1, 2))), setting)
        state = simulate(federation, bank.params(), trainer(bank, method, setting))
        learned[type(method).__name__] = answers(method, state.knowledge, state.params)
    assert torch.equal(learned["Disco"], learned["Finetune"])
    assert not torch.equal(learned["Disco"], answers(Finetune(), {}, small_bank().params())), "nothing was learned"


def test_a_subspace_whose_clients_are_missing_is_opened_by_the_next_that_need_one():
    method = Disco(num_subspaces=3)
    clients = [client(0, [1, 0, 0]), client(1, [0, 1, 0])]
    assigned = method.assign(empty(), 0, clients)
    assert [assignment.train for assignment in assigned] == [(0,), (1,)]
    # Client 0, who was to open subspace 0, is missing from the round.
    knowledge = method.absorb(empty(), [update(1, clients[1])])
    assert knowledge["mass"].tolist() == [0.0, 10.0]
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[0.0, 0, 0], [0, 1, 0]]))
    # At inference it counts as something that is like nothing.
    weights = method.gate(knowledge, torch.tensor([[0.0, 1, 0]]), 3)
    assert weights is not None
    assert weights[0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    # Client 1 finds its own; nobody is like the empty one, whatever the threshold; who is new opens it.
    for threshold in (0.9, -1.0):
        again = Disco(num_subspaces=3, threshold=threshold).assign(knowledge, 0, clients[1:])
        assert [assignment.train for assignment in again] == [(1,)]
    third = client(2, [0, 0, 1])
    new = method.assign(knowledge, 0, [clients[0], clients[1], third])
    assert [assignment.train for assignment in new] == [(0,), (1,), (2,)]
    knowledge = method.absorb(knowledge, [update(0, clients[0])])
    torch.testing.assert_close(knowledge["tokens"], torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
