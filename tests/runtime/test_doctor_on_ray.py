"""`doctor` asks a real cluster: a healthy one has nothing that fails, and nothing is left where it tried to write."""

from pathlib import Path
from typing import Any

import pytest

from fcit_ray.runtime.checkup.asking import Places, ask_cluster
from fcit_ray.runtime.checkup.doctor import examine

pytestmark = pytest.mark.usefixtures("cluster")


def test_nothing_fails_on_a_healthy_cluster_and_nothing_is_left_behind(configure: Any, tmp_path: Path) -> None:
    config = configure(runtime={"feature_cache": str(tmp_path / "cache")})
    cluster, found = examine(config, str(tmp_path / "runs/first"), None, need=1e6)
    assert [finding for finding in found if finding.level == "fail" and finding.check != "disk"] == []  # of who tests
    (node,) = cluster.nodes
    assert node.here
    assert cluster.own
    assert not cluster.silent
    assert node.places == {"data": "", "run": ""}
    assert node.look.versions["ray"]
    assert abs(node.clock) <= 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_does_not_answer_in_time_is_named() -> None:
    cluster = ask_cluster(Places({}), lambda text: None, answer_s=0.0)
    assert cluster.nodes == []
    (reason,) = cluster.silent.values()
    assert reason.startswith("no answer within 0 s")
