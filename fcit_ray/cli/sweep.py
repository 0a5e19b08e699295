"""`fcit-ray sweep`: methods x settings x seeds x a grid of any keys, or a search, as Ray Tune trials."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcit_ray.cli.arguments import sweeps_like
from fcit_ray.cli.common import as_place, console, exit_on_error, tell, usable_folder, write_out
from fcit_ray.cli.job import check_job
from fcit_ray.errors import UserError

if TYPE_CHECKING:
    from fcit_ray.config.sweep import Sweep
    from fcit_ray.config.trials import Study, Trial
    from fcit_ray.results.out import Out
    from fcit_ray.results.sweeps import Stopped


def sweep(
    file: Annotated[
        str, typer.Argument(metavar="SWEEP", help="Shipped sweep by name, or a YAML file.", autocompletion=sweeps_like)
    ],
    override: Annotated[
        list[str] | None,
        typer.Argument(metavar="key.path=value", help="Overrides for all trials.", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Run folders go in here: a folder, or a URI (s3://bucket/sweep). Default: runs/sweep-<name>."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the whole sweep needs, setting by setting; start nothing.")
    ] = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="With --plan: GPUs in all, shared out over the trials at a time (8).")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="With --plan: what each is, such as H100 (default: this machine's).")
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="With --plan: records of every task, where the data is not here.")
    ] = None,
) -> None:
    """Run methods x settings x seeds x a grid, or a search, as Ray Tune trials; show mean and spread over seeds.

    The folder holds the table and a page about all trials, report.html.

    A sweep that was interrupted goes on where it stopped when it is started again: finished trials are kept, unfinished
    ones resume from their last checkpoint. Where a trial fails the tables hold the others, and the exit code is 1.

    \b
    fcit-ray sweep sweeps/miniature
    fcit-ray sweep sweeps/miniature benchmark.split=validation --out runs/tuning
    fcit-ray sweep sweeps/paper_table --plan --gpus 8 --gpu H100
    """
    with exit_on_error("start it again to go on: finished trials are kept, others go on from their last checkpoint"):
        if not plan and (gpus or gpu or records):
            raise UserError("--gpus, --gpu and --records go with --plan")
        from fcit_ray.config.shipped import find_config
        from fcit_ray.config.trials import load_sweep

        path = find_config(file, "sweeps")
        tell(f"{path.stem}: checking configurations ...")
        described, studies = load_sweep(path, override or ())
        studies, left_out = _possible(described, studies)
        if plan:
            from fcit_ray.cli.sweep_plan import show_sweep_plan

            show_sweep_plan(described, studies, gpus or 8, gpu, records)
            return
        from fcit_ray.tracking.choose import check_trackers

        check_trackers(study.trial(study.point(0)).config for study in studies)
        place = as_place(out or f"runs/sweep-{path.stem}")
        check_job(place, [study.trial(study.point(0)).config for study in studies])
        from fcit_ray.results.out import Out

        into = Out(place)
        usable_folder(into.path)
        with into.alone():
            _carry_out(described, studies, left_out, into)


def _possible(described: "Sweep", studies: "list[Study]") -> "tuple[list[Study], dict[str, str]]":
    """The studies of which a run can be made, and why the others are left out; all refused unless that was asked for.

    Raises:
        ConfigError: a name, a hyper-parameter or a combination that there is not.
    """
    from dataclasses import replace

    from fcit_ray.config.space import corners
    from fcit_ray.errors import ConfigError
    from fcit_ray.experiment.algorithm import make_algorithm
    from fcit_ray.experiment.components import check_names

    possible, left_out = [], {}
    for study in studies:
        kept = []
        for point in corners(study.space) if study.space else study.points:
            trial = study.trial(point)
            check_names(trial.config)
            try:
                make_algorithm(trial.config)  # refused now, not when its turn comes
                kept.append(point)
            except ConfigError as error:
                if not described.leave_out:
                    raise ConfigError(f"{trial.folder}: {error}") from None
                left_out[trial.folder] = " ".join(str(error).split())
        if kept and not study.space:
            study = replace(study, points=tuple(kept), num_trials=len(kept))
        possible += [study] if kept else []
    if not possible:
        raise ConfigError("nothing of this sweep can be run:\n" + "\n".join(f"{k}: {v}" for k, v in left_out.items()))
    return possible, left_out


def _carry_out(described: "Sweep", studies: "list[Study]", left_out: Mapping[str, str], out: "Out") -> None:
    from fcit_ray.cli.page import leave_report
    from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
    from fcit_ray.results.majority import majority_results
    from fcit_ray.results.sweeps import by_group, choices, choices_markdown, tuned_files
    from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
    from fcit_ray.results.tell_apart import tell_apart
    from fcit_ray.runtime.starting import start
    from fcit_ray.runtime.tune import run_sweep
    from fcit_ray.storage.file_names import file_name
    from fcit_ray.tracking.following import not_told

    num_trials = sum(study.num_trials for study in studies)
    for folder, why in left_out.items():
        tell(f"left out: {folder}: {why}")
    firsts = {(study.group, study.seed): study for study in reversed(studies)}
    majority = {key: majority_results(study.trial(study.point(0)).config) for key, study in firsts.items()}
    start(out.path / "logs" / "ray.log")
    console.print(f"{num_trials} trials, {described.max_concurrent} at a time")
    done = 0

    def said(trial: "Trial", text: str) -> None:
        nonlocal done
        done += 1
        group = trial.folder.rpartition("/")[0]
        where = f"{group}: " if group else ""
        console.print(
            f"[{done}/{num_trials}] {where}{trial.config.name} seed {trial.config.seed}: {text}", markup=False
        )

    def show(trial: "Trial", results: Mapping[str, Any]) -> None:
        said(trial, f"Last {results['last']:.1f}, {results['seconds']:.0f} s")

    def show_stopped(trial: "Trial", stopped: "Stopped") -> None:
        said(trial, f"stopped after stage {stopped.stage + 1} at {stopped.score:.1f}")

    ended = run_sweep(described, studies, out, on_result=show, on_stopped=show_stopped)
    failures = [f"{out.child(trial.folder)}: {why}" for trial, why in ended.failed]
    lost = [f"failed: {line}" for line in failures]
    lost += [f"left out: {folder}: {why}" for folder, why in left_out.items()]
    chosen = choices(studies, ended)
    parts = []
    for group, finished in by_group(studies, ended).items():
        here = [choice for choice in chosen if choice.study.group == group]
        reference = [results for (of, _), results in reversed(majority.items()) if of == group]
        results = tell_apart([*reference, *(results for _, results in finished)])
        rows = [row_from_results(result) for result in results]
        parts += [f"## {group}\n"] if group else []
        parts += [choices_markdown(here)] if here else []
        parts += [markdown_table(rows) + diagnostics_markdown(results)]
        console.print(comparison_table(rows, group or None))
        if oddities := diagnostics_table(results):
            console.print(oddities)
    for choice in chosen:
        values = ", ".join(f"{key}={value}" for key, value in (choice.point or {}).items()) or "no trial finished"
        edge = f" (at the edge of what was searched: {', '.join(choice.edges)})" if choice.edges else ""
        console.print(f"{choice.study.name}: {values}{edge}", markup=False)
    write_out(
        out.path / "table.md", "\n".join(parts) + "".join(f"\n- {line}" for line in lost) + ("\n" if lost else "")
    )
    console.print(f"Table         {out.child('table.md')}")
    for group, text in tuned_files(chosen).items():
        name = "tuned.yaml" if not group else f"tuned-{file_name(group.replace(' ', '_').lower())}.yaml"
        write_out(out.path / name, text)
        console.print(f"Chosen        {out.child(name)}, a configuration to put on top of the benchmark's")
    told = [trial for trial, _ in (*ended.finished, *ended.failed)]
    if page := leave_report(
        [as_place(out.child(trial.folder)) for trial in told],
        out.path,
        references=tell_apart(majority.values()),
        failed={trial.folder: why for trial, why in ended.failed},
    ):
        console.print(f"Report        {out.child(page.name)}")
    out.bring()
    below = "<setting>/" if any(study.group for study in studies) else ""
    console.print(f"Run folders   {out.child(f'{below}<method>-seed<seed>')}")
    for line in not_told({out.run(trial.folder).path: trial.config for trial in told}):
        tell(line)
    for line in lost:
        tell(line)
    if failures:
        tell(f"{len(failures)} of {num_trials} trials failed; started again, the sweep tries them anew")
        sys.exit(1)
