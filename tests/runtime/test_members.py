"""Who is there, and how many deaths a run bears: those that it has ended itself are none."""

from fcit_ray.runtime.members import Members


def test_deaths_are_counted_but_for_workers_that_were_ended() -> None:
    members = Members(most_deaths=1)
    for worker in range(3):
        members.join(worker, "sdpa", frozenset({f"p{worker}"}), f"actor {worker}")
    assert members.frozen == {"p0", "p1", "p2"}
    assert members.end(1) == "actor 1"
    assert members.end(1) is None, "once is enough"
    assert not members.died([1])
    assert not members.died([0, 2]), "a node takes several with it: one death"
    members.join(1, "", frozenset(), "another")
    assert members.died([1]), "who took its place has died by itself: the second death"


def test_one_that_was_ended_beside_one_that_died_is_one_death() -> None:
    members = Members(most_deaths=0)
    members.join(0, "", frozenset(), "actor")
    members.end(0)
    assert members.died([0, 1])


def test_who_was_ended_and_is_there_again_is_not_pardoned_twice() -> None:
    members = Members(most_deaths=0)
    members.join(0, "", frozenset(), "actor")
    members.end(0)
    members.join(0, "", frozenset(), "its replacement, which came before its death was told")
    assert members.died([0])
