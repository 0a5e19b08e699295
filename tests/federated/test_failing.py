"""The failure policy by itself: how many attempts, when too long is too long, how many must have come."""

import pytest

from fcit_ray.config.failures import Failures
from fcit_ray.federated.failing import Attempt, overdue, quorum, shortfall, tried, verdict

ONE, TWO = Attempt(0, "10.0.0.1", "oops"), Attempt(1, "", "its loss is no number")
DEAD = Attempt(2, "10.0.0.2", "its worker died", died=True)


@pytest.mark.parametrize(
    ("retries", "attempts", "stop", "drop"),
    [
        (0, [ONE], "stop", "drop"),
        (1, [ONE], "retry", "retry"),
        (1, [ONE, TWO], "stop", "drop"),
        # a machine that is taken away is no fault of the client
        (0, [DEAD], "retry", "drop"),
        (1, [DEAD, ONE], "retry", "drop"),
        (1, [DEAD, ONE, DEAD, TWO], "stop", "drop"),
    ],
)
def test_so_often_a_client_is_tried(retries: int, attempts: list[Attempt], stop: str, drop: str) -> None:
    assert verdict(Failures(retries=retries, then="stop"), attempts) == stop
    assert verdict(Failures(retries=retries, then="drop"), attempts) == drop


def test_by_default_nothing_but_silence_is_too_long() -> None:
    times = {"lease_s": 60.0, "size": 10.0, "rates": [0.1] * 9, "planned": 10}
    assert overdue(Failures(), spent_s=1e9, unheard_s=59.9, **times) is None
    assert "nothing was heard" in str(overdue(Failures(), spent_s=60.0, unheard_s=60.0, **times))


# 3 of 10 in decimals is a little more than 3 in binary
@pytest.mark.parametrize(
    ("share", "planned", "needed"), [(0.5, 10, 5), (0.5, 5, 3), (0.3, 10, 3), (1.0, 7, 7), (0.01, 3, 1), (0.7, 10, 7)]
)
def test_the_quorum_of_a_round(share: float, planned: int, needed: int) -> None:
    assert quorum(Failures(quorum=share), planned) == needed


def test_too_few_updates_are_told_with_those_that_are_missing() -> None:
    rule = Failures(then="drop", quorum=0.5)
    assert shortfall(rule, 4, {3: [ONE]}) is None
    assert shortfall(rule, 4, {3: [ONE], 1: [TWO]}) is None
    missing = {3: [ONE], 1: [ONE, TWO], 2: [DEAD]}
    assert shortfall(rule, 4, missing) == (
        "3 of 4 updates are missing, and failures.quorum=0.5 wants 2: client 3 (oops; tried once, by worker 0 on "
        "10.0.0.1), client 1 (its loss is no number; tried 2 times: by worker 0 on 10.0.0.1, worker 1), client 2 (its "
        "worker died; tried once, by worker 2 on 10.0.0.2); --resume trains the round again from the last checkpoint"
    )
    many = str(shortfall(rule, 8, {n: [ONE] for n in (7, 6, 5, 2, 1)}))
    assert "client 5 (" in many
    assert "client 2 (" not in many
    assert " and 2 more; " in many


def test_a_rule_over_clients_that_needs_more_than_the_quorum_gets_it() -> None:
    said = shortfall(Failures(then="drop", quorum=0.1), 5, {0: [ONE], 1: [ONE]}, fewest=4, needs="num_attackers=1")
    assert said is not None
    assert said.startswith(
        "2 of 5 updates are missing, and the rule over clients needs 4 with robust.num_attackers=1: "
    )


def test_what_has_been_tried_is_said() -> None:
    assert tried([ONE]) == "tried once, by worker 0 on 10.0.0.1"
    assert tried([ONE, TWO]) == "tried 2 times: by worker 0 on 10.0.0.1, worker 1"
