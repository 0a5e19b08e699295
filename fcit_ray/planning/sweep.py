"""The plan of a whole sweep: every method in every setting, in hours of named GPUs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from fcit_ray.config.schema import Config
from fcit_ray.config.sweep import Sweep
from fcit_ray.config.trials import Study
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import Experiment, make_setting
from fcit_ray.models.bank import AdapterBank
from fcit_ray.planning.plan import shape_bank
from fcit_ray.planning.report import Plan, answering_hours, make_plan, training_hours
from fcit_ray.planning.shapes import Shapes
from fcit_ray.planning.speed import Device

Opened = tuple[Experiment | None, SampleEncoder | None]


@dataclass(frozen=True)
class Item:
    """The trials of one method in one setting, which are planned as one, with the first seed's partition.

    Attributes:
        group: setting and point of the benchmark's grid; empty if there is one.
        label: of the method.
        trials: how many, seeds and points of the grid together.
        plan: of one.
    """

    group: str
    label: str
    trials: int
    plan: Plan

    @property
    def hours(self) -> float:
        """Of one trial on its GPUs; 0 where no peak or no data is known."""
        return training_hours(self.plan) + answering_hours(self.plan)


def plan_sweep(
    studies: Sequence[Study], device: Device, workers: int, opened: Callable[[Config], Opened]
) -> Iterator[Item]:
    """Plan each method in each setting once.

    Args:
        studies: of the sweep.
        device: of a worker.
        workers: of a trial.
        opened: data of a configuration and the encoder of its records, or None where they are not here.

    Raises:
        ModelError: the model's configuration is not there.
        ConfigError: no layer is called as in `model.targets`.
    """
    counts: dict[tuple[str, str], int] = {}
    firsts: dict[tuple[str, str], Study] = {}
    for study in studies:
        key = (study.group, study.label)
        counts[key] = counts.get(key, 0) + study.num_trials
        firsts.setdefault(key, study)
    banks: dict[str, tuple[AdapterBank, Shapes]] = {}  # of one model and algorithm, whatever the data
    for (group, label), study in firsts.items():
        config = study.trial(study.point(0)).config
        same = repr((config.model, config.method, config.lora, make_setting(config)))
        if same not in banks:
            banks[same] = shape_bank(config, make_algorithm(config))
        plan = make_plan(config, device, workers, *opened(config), banks[same])
        yield Item(group, label, counts[group, label], plan)


def sweep_plan_table(items: Sequence[Item], sweep: Sweep) -> Table:
    """Hours of a trial and of all, method by method; below, the whole sweep."""
    table = Table(title="Plan of the sweep", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Method", overflow="fold")
    for name in ("trials", "a worker's memory", "hours a trial", "hours in all"):
        table.add_column(name, justify="right")
    group = ""
    for item in items:
        if item.group != group:
            group = item.group
            table.add_section()
            table.add_row(group, end_section=True)
        need, device = item.plan.memory.total, item.plan.device
        fits = "" if not device.memory or need <= device.memory else " (does not fit)"
        one = f"{item.hours:.3g}" if item.hours else "not known"
        every = f"{item.hours * item.trials:.3g}" if item.hours else "not known"
        table.add_row(item.label, str(item.trials), f"{need / 1e9:.3g} GB{fits}", one, every)
    table.add_section()
    total = sum(item.hours * item.trials for item in items)
    hours = total / sweep.max_concurrent
    wall = f"{hours:,.0f}" if hours >= 10 else f"{hours:.3g}" if total else "not known"
    at_a_time = f"{sweep.max_concurrent} at a time"
    table.add_row("whole sweep", str(sum(item.trials for item in items)), "", at_a_time, wall)
    return table


def refusals(items: Sequence[Item]) -> list[str]:
    """Why methods do not fit their GPU, with the smallest change that would; each once."""
    return [
        f"{item.label}{f' ({item.group})' if item.group else ''}: {item.plan.refusal}"
        for item in items
        if item.plan.refusal
    ]
