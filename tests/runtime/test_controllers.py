"""A controller that does not bring workers back is ended, once; one that has had no time yet is not."""

from fcit_ray.runtime.controllers import Controllers


def test_the_last_known_of_each_group_is_ended_once_when_nobody_has_been_there_for_three_minutes() -> None:
    killed: list[str] = []
    controllers = Controllers(killed.append)
    assert not controllers.end(180.0), "nobody has told of a death"
    controllers.come(0, "earlier")
    controllers.come(0, "later")
    controllers.come(2, "other")
    assert not controllers.end(120.0)
    assert controllers.end(180.0)
    assert sorted(killed) == ["later", "other"]
    assert not controllers.end(240.0), "whoever waits for room waits on"
