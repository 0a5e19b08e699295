"""The runs of a comparison, carried out: all in one worker group where it can serve them all."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcit_ray.cli.common import tell
from fcit_ray.cli.display import Display
from fcit_ray.cli.job import check_job
from fcit_ray.errors import RunFailed
from fcit_ray.importing import swift_imports

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config
    from fcit_ray.results.out import Out
    from fcit_ray.results.run_folder import RunFolder


def carry_out(
    configs: "Mapping[str, Config]", out: "Out", *, resume: bool, overwrite: bool
) -> "tuple[dict[str, RunFolder], dict[str, dict[str, Any]], dict[str, str]]":
    """Check, open and carry out runs, several at a time.

    Args:
        configs: by name, which is that of the run's folder too.
        out: where the run folders go.
        resume, overwrite: as of a run.

    Returns:
        Run folders; results of the runs that finished; why the others failed. By name, in the order of `configs`.

    Raises:
        UserError: what cannot be used, before anything is started.
    """
    check_job(out.child(""), configs.values())
    if all(out.has(f"{name}/results.json") for name in configs) and not overwrite:
        return _carry_out(configs, out, lambda log_file: None, resume=resume, overwrite=overwrite)
    from fcit_ray.runtime.starting import RayBeside

    with RayBeside() as beside:
        return _carry_out(configs, out, beside.ready, resume=resume, overwrite=overwrite)


def _carry_out(
    configs: "Mapping[str, Config]", out: "Out", ready: Callable[[Path], None], *, resume: bool, overwrite: bool
) -> "tuple[dict[str, RunFolder], dict[str, dict[str, Any]], dict[str, str]]":
    with swift_imports():
        from fcit_ray.cli.common import usable_folder
        from fcit_ray.experiment.opening import open_experiment
        from fcit_ray.results.opening import open_run
        from fcit_ray.runtime.driver_place import lone_disk
        from fcit_ray.runtime.launch import launch
        from fcit_ray.runtime.room import never_joining
        from fcit_ray.runtime.together import Planned, alike, launch_together
        from fcit_ray.tracking.choose import check_trackers
        from fcit_ray.tracking.following import Following

    check_trackers(configs.values())
    experiments = {name: open_experiment(config) for name, config in configs.items()}
    usable_folder(out.path)
    folders = {
        name: open_run(out.child(name), config, resume=resume, overwrite=overwrite) for name, config in configs.items()
    }
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def around(name: str, once: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            with Following(configs[name], folders[name], tell, group=out.name):
                return once()
        finally:
            if why := folders[name].bring_beside():
                tell(f"warning: {why}")

    for name, folder in folders.items():
        if folder.finished:  # read, and its trackers told what they have missed
            results[name] = around(name, lambda name=name: launch(configs[name], folders[name]))  # type: ignore[misc]
    todo = {name: Planned(configs[name], folders[name], experiments[name]) for name in configs if name not in results}
    if todo:
        ready(out.path / "logs" / "ray.log")
        some = next(iter(todo.values()))
        for warning in filter(None, (lone_disk(some.folder), never_joining(some.config))):
            tell(f"warning: {warning}")

    with Display() as display:

        def ended(name: str, end: "Future[dict[str, Any]]") -> None:
            try:
                results[name] = end.result()
            except RunFailed as error:  # the other methods are not to blame
                failed[name] = str(error)
            display.end(name, failed=name in failed)
            if name in failed:
                tell(f"failed: {folders[name].shown}: {failed[name]}")

        def alone(name: str) -> dict[str, Any]:
            run = todo[name]
            return launch(
                run.config,
                run.folder,
                on_status=lambda status: display.update(status, name),
                experiment=run.experiment,
            )

        if len(todo) > 1 and alike([run.config for run in todo.values()]):
            launch_together(
                todo,
                out.path / "logs",
                around,
                on_status=lambda name, status: display.update(status, name),
                on_end=ended,
            )
        else:
            for name in todo:
                end: Future[dict[str, Any]] = Future()
                try:
                    end.set_result(around(name, lambda name=name: alone(name)))  # type: ignore[misc]
                except RunFailed as error:
                    end.set_exception(error)
                ended(name, end)
    return folders, {name: results[name] for name in configs if name in results}, failed
