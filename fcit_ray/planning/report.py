"""The plan of a run as a user reads it: a few plain tables, and what each estimate rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.lengths import Lengths, assumed_lengths, measure_lengths
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.errors import ConfigError, DataError, ModelError
from fcit_ray.experiment.opening import Experiment, local_training
from fcit_ray.models.bank import AdapterBank
from fcit_ray.planning.answering import hidden_share, largest_answer_batch
from fcit_ray.planning.encoding import to_encode
from fcit_ray.planning.fitting import TIGHT, smallest_change
from fcit_ray.planning.memory import Load, Memory, memory
from fcit_ray.planning.plan import Outline, blind_experiment, efficiency, load_of, outline
from fcit_ray.planning.shapes import FLOAT, Shapes, tiles_of
from fcit_ray.planning.speed import UTILISATION, Device, answer_seconds, step_flops


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run before it starts.

    Attributes:
        config: of the run.
        device: of a worker.
        workers: that train at once.
        run: what it is made of.
        lengths: of its records.
        load: of one worker.
        memory: of one worker.
        has_data: whether the data was there; without it there is no schedule and no time.
        asked: records to answer after each stage, from 0; -1 is zero-shot.
        notes: what could not be looked at, in words.
    """

    config: Config
    device: Device
    workers: int
    run: Outline
    lengths: Lengths
    load: Load
    memory: Memory
    has_data: bool
    asked: Mapping[int, int]
    notes: tuple[str, ...] = ()

    @property
    def tests(self) -> int:
        """Records to answer in the whole run."""
        return sum(self.asked.values())

    @property
    def refusal(self) -> str:
        """Why it cannot run on its device, with the smallest change that would; empty if it can or none is known."""
        if not self.device.memory or self.memory.total <= self.device.memory:
            return ""
        words, need = smallest_change(self.run.shapes, self.load, self.device.memory)
        return (
            f"a worker needs {_gb(self.memory.total)} and {self.device.name} has {_gb(self.device.memory)}; "
            f"the smallest change that fits: {words} ({_gb(need.total)})"
        )

    @property
    def warning(self) -> str:
        """That it fits only just; empty otherwise."""
        if self.refusal or self.memory.total <= TIGHT * self.device.memory or not self.device.memory:
            return ""
        return f"a worker needs {_gb(self.memory.total)} of {_gb(self.device.memory)}: it may run out of memory"


def make_plan(
    config: Config,
    device: Device,
    workers: int,
    experiment: Experiment | None,
    encoder: SampleEncoder | None,
    shaped: tuple[AdapterBank, Shapes] | None = None,
) -> Plan:
    """Plan a run.

    Args:
        config: of the run.
        device: a whole one; a worker has of it what `runtime.gpus_per_worker` says.
        workers: that train at once.
        experiment: opened on the data, or None where that is not here.
        encoder: the run's, to look at records with.
        shaped: what `shape_bank` made for a run of the same model and algorithm.

    Raises:
        ModelError: the model's configuration is not there.
        ConfigError: no layer is called as in `model.targets`.
    """
    device = device.shared(config.runtime)
    run = outline(experiment or blind_experiment(config), workers, shaped)
    lengths, notes = assumed_lengths(config), []
    if experiment is None or encoder is None:
        notes.append("no data: every record is taken to be as long as model.max_length")
    elif experiment.stream.records:
        try:
            lengths = measure_lengths(encoder, experiment.stream)
        except (DataError, ModelError) as error:
            notes.append(f"token lengths not measured, model.max_length taken instead: {error}")
    if experiment is not None and (said := to_encode(experiment)):
        notes.append(said)
    load = load_of(config, run, lengths, cuda=device.is_gpu)
    asked: dict[int, int] = {}
    if experiment is not None:
        stages = range(experiment.setting.num_stages) or range(-1, 0)  # nothing trained: the one evaluation before
        due = stages if config.evaluation.every_stage else stages[-1:]
        tests = experiment.tests
        asked = {stage: sum(len(tests[name]) for name in experiment.evaluated(stage)) for stage in due}
    needed = memory(run.shapes, load)
    return Plan(config, device, workers, run, lengths, load, needed, experiment is not None, asked, tuple(notes))


def check_memory(plan: Plan) -> str:
    """Refuse a run that cannot fit; returns a warning, empty if there is room enough.

    Raises:
        ConfigError: with the smallest change that would fit.
    """
    if plan.refusal:
        raise ConfigError(f"memory: {plan.refusal}")
    return plan.warning


def plan_tables(plan: Plan) -> list[Table]:
    """Parameters, one worker's memory, and the schedule."""
    return [_parameters(plan), _memory(plan), _schedule(plan)]


def plan_basis(plan: Plan) -> list[str]:
    """What the numbers rest on, a line each."""
    lengths = plan.lengths
    lines = [
        f"tokens: {lengths.sampled} records looked at; longest {lengths.longest}, mean {lengths.mean:.0f}, answers "
        f"{lengths.mean_answer:.1f}"
        if lengths.sampled
        else f"tokens: {lengths.longest} a record, an upper bound",
        f"vision tower: {plan.load.tiles * plan.run.shapes.tower_tokens:,.0f} tokens a record"
        + (", not measured: a picture of many tiles or patches has more" if lengths.pixels is None else " at most"),
        "memory: shapes of the model, formulas of fcit_ray/planning/memory.py; the CUDA context (1 GB) and fragments "
        "(5 %) are assumed",
        f"time: {plan.device.name}, {plan.device.peak / 1e12:.3g}e12 operations a second ({plan.device.basis}), "
        f"{UTILISATION:.0%} of it (assumed; benchmarks/client_update.py measures it)"
        if plan.device.peak
        else f"time: not estimated, as the speed of {plan.device.name} is not known ({plan.device.basis})",
        "identity tokens are not read: a task's clients are taken to look alike, those of different tasks to differ",
    ]
    if plan.run.uncounted:
        lines.append(f"traffic: without {plan.run.uncounted}")
    return lines + list(plan.notes)


def training_hours(plan: Plan) -> float:
    """Of all rounds' longest workers at the mean record length; 0 where no peak or no data is known."""
    if not plan.device.peak or not plan.has_data:
        return 0.0
    return sum(round.makespan for round in plan.run.rounds) * _record_s(plan) / 3600


def _record_s(plan: Plan) -> float:
    """Seconds of a worker in which it trains a record of the mean length, in all epochs of a round."""
    mean = max(1, round(plan.lengths.mean))
    load = replace(_at_mean(plan), tokens=mean, answer_tokens=min(plan.load.answer_tokens, mean))
    steps = local_training(plan.config).epochs / load.batch
    return steps * step_flops(plan.run.shapes, load) / (plan.device.peak * UTILISATION)


def answering_hours(plan: Plan) -> float:
    """Of all evaluations, spread over the workers; 0 where no peak or no data is known."""
    if not plan.device.peak or not plan.has_data:
        return 0.0
    return plan.tests * _answer_s(plan) / plan.workers / 3600


def answers_behind(plan: Plan) -> float:
    """Share of the answers that workers give whom the next stage's rounds leave idle; 0 where that is not known."""
    runtime = plan.config.runtime
    known = plan.device.peak and plan.has_data
    if not known or not runtime.answer_behind or plan.workers < 2 or not plan.config.evaluation.every_stage:
        return 0.0
    return hidden_share(plan.asked, plan.run.rounds, plan.workers, _record_s(plan), _answer_s(plan))


def _answer_s(plan: Plan) -> float:
    """Seconds of a worker that an answer takes."""
    lengths = plan.lengths
    return answer_seconds(
        plan.run.shapes, _at_mean(plan), plan.memory.base, lengths.mean, max(1.0, lengths.mean_answer), plan.device
    )


def _at_mean(plan: Plan) -> Load:
    """The load with pictures of the mean size."""
    return replace(plan.load, tiles=tiles_of(plan.run.shapes, plan.lengths.mean_pixels))


def _parameters(plan: Plan) -> Table:
    run, shapes = plan.run, plan.run.shapes
    table = _table("Parameters", "numbers", "bytes")
    half = 2 if plan.load.half else 4
    projector = f"{shapes.projector:,}"
    table.add_row("language model", f"{shapes.language:,}", _gb(half * shapes.language))
    table.add_row("vision tower", f"{shapes.vision:,}", _gb(half * shapes.vision))
    table.add_row("projector", projector, _gb(FLOAT * shapes.projector))
    table.add_row("base", f"{shapes.base:,}", "")
    if run.num_adapters:
        table.add_row(f"one adapter of {run.num_adapters}", f"{run.adapter:,}", _gb(FLOAT * run.adapter))
    table.add_row("all that can be trained", f"{run.held:,}", _gb(FLOAT * run.held))
    table.add_row("trained by a client", f"{run.trained:,}", _gb(FLOAT * run.trained))
    return table


def _memory(plan: Plan) -> Table:
    need, load = plan.memory, plan.load
    piece = "batch" if load.batch == local_training(plan.config).batch_size else "micro-batch"
    table = _table("Memory of one worker", "bytes", "")
    names = {
        "base": "base weights" + (", decoder in four bits" if load.four_bit else ""),
        "adapters": "adapters and projector, and the packed adapter",
        "told": "what the server tells a client",
        "gradients": "gradients",
        "moments": "AdamW's moments",
        "activations": f"activations, {piece} of {load.batch} records of {load.tokens} tokens"
        + (", checkpointed" if load.checkpointing else ""),
        "logits": f"logits of {load.answer_tokens} positions a record",
        "workspace": "temporary values",
        "context": "CUDA context",
    }
    for key, name in names.items():
        if value := getattr(need, key):
            table.add_row(name, _gb(value), "")
    table.add_row("training", _gb(need.training), _share(need.training, plan.device))
    table.add_row(f"answering, {load.answer_batch} at once", _gb(need.answering), _share(need.answering, plan.device))
    if plan.device.memory:
        fit = largest_answer_batch(plan.run.shapes, load, plan.device.memory)
        table.add_row("evaluation.batch_size that fits", f"{fit:,}", f"in {TIGHT:.0%} of {plan.device.name}")
    table.add_row("needed", _gb(need.total), _share(need.total, plan.device))
    return table


def _schedule(plan: Plan) -> Table:
    rounds = plan.run.rounds
    table = _table(f"Schedule over {plan.workers} worker(s)", "", "")
    table.add_row("rounds", f"{len(rounds)}", "")
    if rounds:
        down, up = [round.down for round in rounds], [round.up for round in rounds]
        table.add_row("down, a round", _range(down), f"{_gb(sum(down))} in all")
        table.add_row("up, a round", _range(up), f"{_gb(sum(up))} in all")
    if rounds and plan.has_data:
        share = efficiency(rounds, plan.workers)
        alone = efficiency(rounds, plan.workers, lambda round: round.alone)
        bound = efficiency(rounds, plan.workers, lambda round: round.shortest)
        at = max(rounds, key=lambda round: max(round.records))
        records, longest = max(at.records), max(at.steps)
        table.add_row("steps", f"{sum(sum(round.steps) for round in rounds):,}", "")
        table.add_row("packing, one worker a client", f"{alone:.1%}", f"idle {1 - alone:.1%}")
        table.add_row("packing efficiency", f"{share:.1%}", f"idle {1 - share:.1%}")
        local = local_training(plan.config)
        pieces = -(-local.batch_size // (local.micro_batch_size or local.batch_size))
        table.add_row("no schedule packs better than", f"{bound:.1%}", f"{pieces} micro-batch(es) a step")
        table.add_row("longest client", f"{records:,} records", f"{longest:,} steps, stage {at.stage + 1}")
    if plan.has_data:
        table.add_row("questions answered", f"{plan.tests:,}", "")
    if train := training_hours(plan):
        table.add_row("training", f"{train:.2g} h", "estimate")
    if answer := answering_hours(plan):
        table.add_row("answering", f"{answer:.2g} h", f"estimate; {answers_behind(plan):.0%} of it behind rounds")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _share(value: float, device: Device) -> str:
    return f"{value / device.memory:.0%} of {device.name}" if device.memory else ""


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return _gb(low) if low == high else f"{_gb(low)} to {_gb(high)}"


def _gb(value: float) -> str:
    """10^9 or 10^6 bytes, three digits."""
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"
