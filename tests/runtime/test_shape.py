"""What workers take of a cluster: groups that differ, shares of a GPU, and what is refused where they find no room."""

from types import SimpleNamespace

import pytest
from conftest import Configure
from pydantic import ValidationError

from fcit_ray.config.runtime import Runtime
from fcit_ray.errors import ConfigError
from fcit_ray.planning.memory import CONTEXT_BYTES as PLANNED_CONTEXT
from fcit_ray.runtime import room as room_module
from fcit_ray.runtime.gpu_share import CONTEXT_BYTES, memory_fraction
from fcit_ray.runtime.room import Room, may_join, never_joining, refuse_crowding
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.together import alike

BOX = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:L4": 1.0}


def test_groups_take_what_they_say_and_else_what_all_take() -> None:
    runtime = Runtime.model_validate(
        {
            "num_workers": 7,
            "gpu": True,
            "cpus_per_worker": 2.0,
            "gpus_per_worker": 0.5,
            "resources_per_worker": {"fast": 1},
            "worker_groups": [
                {"num_workers": 3},
                {"num_workers": 1, "cpus_per_worker": 4, "gpus_per_worker": 1, "resources_per_worker": {}},
            ],
        }
    )
    assert runtime.num_workers == 4  # 3 + 1, and not the 7 of before
    shape = Shape.of(runtime)
    # The second group's first worker comes after the first's three.
    assert [(first, part.num_workers, part.resources) for first, part in shape.ranked()] == [
        (0, 3, {"CPU": 2.0, "GPU": 0.5, "fast": 1.0}),
        (3, 1, {"CPU": 4.0, "GPU": 1.0}),
    ]
    assert str(shape) == "3 of 2 CPUs and 0.5 of a GPU and 1 fast, 1 of 4 CPUs and a GPU"
    assert Runtime.model_validate(runtime.model_dump(mode="json")) == runtime  # as it goes to workers and back


def test_workers_without_gpu_reserve_none_whatever_their_share() -> None:
    assert Shape.of(Runtime(gpus_per_worker=0.25)).resources == {"CPU": 0.5}


def test_runs_whose_groups_differ_do_not_share_workers(configure: Configure) -> None:
    one, same, other = (
        configure(runtime={"worker_groups": [{"num_workers": count}, {"num_workers": 1, "cpus_per_worker": 1}]})
        for count in (1, 1, 2)
    )
    assert alike([one, same])
    assert not alike([one, other])
    assert Shape.of(one.runtime).kind != Shape.of(other.runtime).kind


def test_a_run_may_begin_with_fewer_workers_group_by_group() -> None:
    shape = Shape.of(Runtime(num_workers=3, min_workers=2))
    assert (shape.first, list(shape.others())) == (Shape(2, 0.5, False), [(2, shape)])
    spot = {"num_workers": 2, "min_workers": 0, "cpus_per_worker": 4}
    keys = {"worker_groups": [spot, {"num_workers": 2}, {"num_workers": 3, "min_workers": 1}]}
    groups = Shape.of(Runtime.model_validate(keys))
    # Ranks 0 and 1 are of the first group, 2 and 3 of the second, 4 to 6 of the third.
    assert groups.first_ranks == [2, 3, 4]
    assert [(rank, part.cpus) for rank, part in groups.others()] == [(0, 4.0), (1, 4.0), (5, 0.5), (6, 0.5)]
    assert str(groups.first) == "2 of 0.5 CPUs, 1 of 0.5 CPUs"
    assert groups.first.num_workers == 3
    all_of_them = Shape.of(Runtime(num_workers=3))
    assert (all_of_them.first, list(all_of_them.others())) == (all_of_them, [])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_workers": 2, "min_workers": 3}, "min_workers: 3 of 2 workers"),
        ({"worker_groups": [{"num_workers": 2, "min_workers": 3}]}, "min_workers: 3 of 2 workers"),
        ({"min_workers": 1, "worker_groups": [{"num_workers": 2}]}, "min_workers: expected in each group"),
        ({"worker_groups": [{"num_workers": 2, "min_workers": 0}]}, "a run begins with a worker"),
    ],
)
def test_a_minimum_that_cannot_be_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Runtime.model_validate(keys)


ONE, TWO = {"CPU": 1.0}, {"CPU": 2.0}


@pytest.mark.parametrize(
    ("keys", "there", "nodes", "ranks"),
    [
        ({"num_workers": 4, "min_workers": 1}, [], [ONE], []),  # the first takes half of it, reading the other half
        ({"num_workers": 4, "min_workers": 1}, [], [ONE, ONE], [1, 2]),
        ({"num_workers": 4, "min_workers": 1}, [2], [ONE, ONE], [1]),
        ({"num_workers": 4, "min_workers": 1}, [1, 2], [ONE, ONE], []),
        ({"num_workers": 4, "min_workers": 1}, [2], [ONE], []),  # whose node is gone
        ({"num_workers": 4, "min_workers": 1}, [], [TWO, TWO], [1, 2, 3]),  # no more than are wanted
        ({"num_workers": 4, "min_workers": 1, "cpus_per_worker": 1.5}, [], [ONE, TWO], []),  # 3 CPUs, in two pieces
        ({"num_workers": 2, "min_workers": 1, "resources_per_worker": {"fast": 1}}, [], [TWO | {"fast": 1.0}], []),
        ({"worker_groups": [{"num_workers": 1}, {"num_workers": 2, "min_workers": 0}]}, [], [TWO], [1, 2]),
        ({"num_workers": 4, "min_workers": 1}, [3], None, [1, 2]),  # it may grow: who asks for nothing gets no node
    ],
)
def test_who_may_join_leaves_room_to_read_with(
    keys: dict[str, object], there: list[int], nodes: list[dict[str, float]] | None, ranks: list[int]
) -> None:
    room = None if nodes is None else Room(nodes)
    assert [rank for rank, _ in may_join(Shape.of(Runtime.model_validate(keys)), there, room)] == ranks


def test_workers_that_can_never_join_are_told_of_where_the_cluster_is_one_machine(
    monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    monkeypatch.setattr(Room, "here", lambda: Room([TWO]))
    monkeypatch.setattr(room_module, "inside_ray", lambda *names: SimpleNamespace(head=True))
    config = configure(runtime={"num_workers": 8, "min_workers": 1, "cpus_per_worker": 0.5})
    assert never_joining(config) == (  # 3 x 0.5 CPUs, and 0.5 to read with
        "runtime.num_workers: 3 of 8 workers find room, and no node can join a cluster that a command has for itself "
        "(the cluster has 2 CPUs and 0 GPUs on 1 node(s)): the run goes on with 3. `ray start --head` begins one that "
        "nodes join"
    )
    monkeypatch.setattr(room_module, "inside_ray", lambda *names: SimpleNamespace(head=False))
    assert not never_joining(config)


@pytest.mark.parametrize(
    ("shape", "places"),
    [
        (Shape(9, 1.0, True, 0.25), 8),  # two GPUs of four each
        (Shape(9, 1.0, True, 0.4), 4),  # two of 0.4 on each: what is left of two GPUs makes no third
        (Shape(9, 1.0, True), 2),
        (Shape(9, 3.0, False), 5),  # 16 / 3
        (Shape(9, 3.0, False, custom=(("accelerator_type:L4", 0.25),)), 4),
        (Shape(9, 3.0, False, custom=(("fast", 0.001),)), 0),
        (Shape(9, 0.1, False), 9),  # no more than are wanted
    ],
)
def test_how_many_workers_find_room_on_a_node(shape: Shape, places: int) -> None:
    assert shape.places(BOX, most=9) == places


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"gpu": True, "num_workers": 9, "gpus_per_worker": 0.25},
            "runtime.num_workers: 9 workers of 0.5 CPUs and 0.25 of a GPU find no room: the cluster has 16 CPUs and 2 "
            "GPUs on 1 node(s). Lower runtime.num_workers or runtime.cpus_per_worker or runtime.gpus_per_worker",
        ),
        (
            {"num_workers": 9, "min_workers": 5, "cpus_per_worker": 4.0},
            "runtime.min_workers: 5 workers of 4 CPUs find no room: the cluster has 16 CPUs and 2 GPUs on 1 node(s). "
            "Lower runtime.min_workers or runtime.cpus_per_worker",
        ),
        (
            {"num_workers": 9, "min_workers": 4, "cpus_per_worker": 4.0},
            "runtime.cpus_per_worker: 4 workers of 4 CPUs leave less than 0.5 CPU to read data with: the cluster has "
            "16 CPUs and 2 GPUs on 1 node(s). Lower runtime.cpus_per_worker (a share of a CPU will do) or "
            "runtime.min_workers",
        ),
        (
            {"resources_per_worker": {"fast": 1}},
            "runtime.num_workers: 2 workers of 0.5 CPUs and 1 fast find no room: the cluster has 16 CPUs and 2 GPUs on "
            "1 node(s), 0 fast in all. Lower runtime.num_workers or runtime.cpus_per_worker or "
            "runtime.resources_per_worker",
        ),
        (
            {"gpu": True, "worker_groups": [{"num_workers": 1}, {"num_workers": 3}]},
            "runtime.worker_groups[1].num_workers: 3 workers of 0.5 CPUs and a GPU find no room: the cluster has 16 "
            "CPUs and 2 GPUs on 1 node(s). Lower runtime.worker_groups[1].num_workers or "
            "runtime.worker_groups[1].cpus_per_worker",
        ),
        (
            {"gpu": True, "worker_groups": [{"num_workers": 2, "gpus_per_worker": 0.75}, {"num_workers": 1}]},
            "runtime.worker_groups: all groups together take 2.5 GPU: 2 of 0.5 CPUs and 0.75 of a GPU, 1 of 0.5 CPUs "
            "and a GPU find no room: the cluster has 16 CPUs and 2 GPUs on 1 node(s), 2 GPU in all. Lower num_workers "
            "of a group, or what each of its workers takes",
        ),
        (
            {"worker_groups": [{"num_workers": 1, "cpus_per_worker": 8}, {"num_workers": 2, "cpus_per_worker": 4}]},
            "runtime.cpus_per_worker: workers (1 of 8 CPUs, 2 of 4 CPUs) leave less than 0.5 CPU to read data with: "
            "the cluster has 16 CPUs and 2 GPUs on 1 node(s). Lower runtime.cpus_per_worker (a share of a CPU will do) "
            "or runtime.num_workers, in runtime.worker_groups",
        ),
    ],
)
def test_what_finds_no_room_is_refused_by_its_keys(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_crowding(Shape.of(Runtime.model_validate(keys)), Room([BOX]))
    assert str(refused.value) == said


def test_no_more_than_the_first_must_ever_fit() -> None:
    refuse_crowding(Shape.of(Runtime(num_workers=99, min_workers=1)), Room([BOX]))


def test_groups_that_fit_are_let_in() -> None:
    keys = {"gpu": True, "worker_groups": [{"num_workers": 4, "gpus_per_worker": 0.25}, {"num_workers": 1}]}
    refuse_crowding(Shape.of(Runtime.model_validate(keys)), Room([BOX]))


def test_a_share_of_a_gpu_leaves_room_for_what_a_process_takes_of_it_anyway() -> None:
    assert CONTEXT_BYTES == PLANNED_CONTEXT == 1e9
    # A quarter of 40 GB is 10; of these a process has 1 GB before it computes; 9 of 40 are left for tensors.
    assert memory_fraction(0.25, 40e9) == pytest.approx(0.225)
    with pytest.raises(ValueError, match=r"runtime.gpus_per_worker: 0.1 of this GPU are 0.8 GB, and a process takes"):
        memory_fraction(0.1, 8e9)
