"""The benchmark of what tokens tell: its attacks find what must be found, and no more where nothing can be."""

import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from repository import ROOT

from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import load_train
from fcit_ray.federated.privacy import NoPrivacy, TokenNoise

FOLDER = ROOT / "benchmarks"
attacks = SimpleNamespace(**runpy.run_path(str(FOLDER / "token_attacks.py")))


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "identity_leak.py")))


def mean(features, held):
    return features[list(held)].mean(axis=0)


def recovered(features, held, token=None, seen=lambda tokens: tokens):
    places = np.arange(len(features))
    token = mean(features, held) if token is None else token
    return attacks.recover(token, features, seen, places, np.array(held))


def test_auc_counts_pairs_and_half_of_equal_ones():
    # Members 3 and 1 against 2 and 1: above, above; below, equal: 2.5 of 4.
    assert attacks.auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])) == 2.5 / 4
    assert attacks.auc(np.zeros(4), np.array([True, False, False, False])) == 0.5


def test_guesses_are_counted_over_what_is_held():
    assert attacks.best(np.array([1.0, 3.0, 3.0, 2.0]), 3) == [1, 2, 3]
    assert attacks.recall([1, 2], [2, 3]) == 0.5


def test_a_client_of_one_instruction_is_found():
    features = np.random.default_rng(0).normal(size=(40, 16))
    for held in range(40):
        found = recovered(features, [held])
        assert {found.nearest, found.pursuit, found.fit, found.search, found.auc_nearest, found.auc_fit} == {1}
        assert found.task == 1 / 40


def test_instructions_with_nothing_in_common_are_all_found():
    found = recovered(np.eye(12), [1, 4, 5, 11])
    assert {found.nearest, found.pursuit, found.fit, found.search, found.auc_nearest, found.auc_fit} == {1}


def test_the_fit_tells_apart_what_cosines_cannot():
    # The third lies between the two that are held, so it is nearest; it alone does not add up to their mean.
    features = np.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.1], [1.0, 1.0, 0.0]])
    token = mean(features, [0, 1])
    assert attacks.best(attacks.cosines(token, features), 1) == [2]
    assert recovered(features, [0, 1]).fit == 1


def test_a_search_swaps_its_way_to_the_set_that_explains_the_token():
    features = np.eye(6)
    assert sorted(attacks.searched(mean(features, [1, 4]), features, [[0, 2]], lambda tokens: tokens)) == [1, 4]


def test_a_server_that_knows_the_rule_finds_a_client_of_one_instruction_by_its_signs_alone():
    features = np.random.default_rng(0).normal(size=(40, 64))
    for held in range(40):
        found = recovered(features, [held], np.sign(features[held]), np.sign)
        assert (found.nearest, found.search) == (1, 1)


def test_pursuit_ends_where_nothing_is_left():
    assert attacks.pursued(np.array([1.0, 0.0, 0.0]), np.eye(3), 3) == [0]
    assert attacks.pursued(np.array([-1.0, 0.0]), np.eye(2), 2) == []


def test_of_a_token_that_is_noise_alone_nothing_is_found():
    draw = np.random.default_rng(1)
    features = draw.normal(size=(60, 32))
    rows = [recovered(features, draw.choice(60, 20, replace=False), draw.normal(size=32)) for _ in range(60)]
    # By chance a third of them; the standard error of 60 such means is below 0.015, of the AUC below 0.01.
    assert np.mean([row.nearest for row in rows]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean([row.fit for row in rows]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean([row.search for row in rows]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean([row.auc_nearest for row in rows]) == pytest.approx(0.5, abs=0.04)


def test_a_rule_that_hides_nothing_routes_as_in_the_clear_and_one_that_hides_all_does_not(benchmark, tmp_path):
    write_miniature(tmp_path, num_train=30, num_validation=1, num_test=2)
    sizes = {"tasks": "[IconQA,CLEVR-Math]", "num_clients": 3, "clients_per_round": 2, "num_rounds": 2}
    (run,) = benchmark.opened(str(tmp_path), 1, "miniature", **sizes)
    plain, knowledge = benchmark.route(NoPrivacy().hide, run)
    assert [task for task, _ in plain] == [0] * 4 + [1] * 4
    assert len(knowledge["tokens"]) == 2
    same, groups, pure, asked, weight = benchmark.routing(TokenNoise(token_noise=1e-6).hide, run, plain)
    assert (same, groups, pure, asked) == (1, 2, 1, 1)
    assert 0.9 < weight <= 1
    drowned = benchmark.routing(TokenNoise(token_noise=10.0).hide, run, plain)
    assert drowned[1] > 2
    told, _, _ = benchmark.linked(NoPrivacy().hide, [run])
    assert told == 1


def test_the_same_words_in_another_order_count_once(benchmark, tmp_path):
    write_miniature(tmp_path, num_train=100, num_validation=1, num_test=1)
    texts = benchmark.instructions(str(tmp_path))["FigureQA"]
    records = load_train(Collection.of_catalog(str(tmp_path)), "FigureQA")
    assert len(texts) < len({record.turns[0].question for record in records})
    assert len({tuple(sorted(text.lower().split())) for text in texts}) == len(texts)
    features = torch.stack([benchmark.encoded(text) for text in texts])
    assert torch.cdist(features, features).fill_diagonal_(1).min() > 1e-4
