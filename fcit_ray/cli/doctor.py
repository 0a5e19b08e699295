"""`fcit-ray doctor`: is this cluster fit for a run, and what is to be done where it is not."""

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcit_ray.cli.arguments import configs_like, split_overrides
from fcit_ray.cli.common import console, exit_on_error, tell

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config
    from fcit_ray.runtime.checkup.facts import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG]...",
            help="The run that is planned, as `run` takes it (default: only the cluster is looked at).",
            autocompletion=configs_like,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Where the run folder will be: a path or a URI (default: runs/, with a CONFIG)."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of the cluster, host:port (default: as `run` finds it, RAY_ADDRESS or `ray start`)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings and facts as JSON.")] = False,
) -> None:
    """Look at every node of the cluster that a run would use, and say what is in the way.

    It joins the cluster as `run` does, or starts one. Versions, GPUs, memory, object store, data, run folder, disks,
    clocks, ports, token, Java, flash-attn: a line each, `ok`, `warn` or `fail` with what to do. Exits with 2 if
    anything fails, with 0 otherwise.

    \b
    fcit-ray doctor
    fcit-ray doctor miniature disco --out runs/first
    fcit-ray doctor CONFIG... --address 10.0.0.1:6379 --json
    """
    with exit_on_error("nothing was changed"):
        tell("looking at this machine ...")
        names, overrides = split_overrides(config or [])
        loaded = None
        if names or overrides:
            from fcit_ray.experiment.loading import load_config

            loaded = load_config(*names, overrides=overrides)
        found = _examined(loaded, out or ("runs" if loaded is not None else ""), address, as_json)
    if any(finding.level == "fail" for finding in found):
        raise typer.Exit(2)


def _examined(config: "Config | None", out: str, address: str | None, as_json: bool) -> "list[Finding]":
    from fcit_ray.config.schema import with_absolute_paths
    from fcit_ray.data.scoring.rules import scored_by
    from fcit_ray.errors import RunFailed
    from fcit_ray.runtime.checkup.doctor import examine
    from fcit_ray.runtime.checkup.facts import Finding
    from fcit_ray.storage.location import absolute

    need, java, unknown = 0.0, False, ""
    if config is not None:
        config = with_absolute_paths(config)
        java = scored_by(config, config.benchmark.evaluated_datasets).get("captions") == "full"
        # Where it is missed nothing opens: that will be told, and the rest is planned without looking at data.
        need, unknown = _planned(config, look=not java or shutil.which("java") is not None)
    place = absolute(out) if out else ""
    cluster = None
    try:
        cluster, found = examine(config, place, address, need=need, java=java, unknown=unknown, progress=tell)
    except RunFailed as error:
        found = [Finding("fail", "nodes", str(error))]
    if as_json:
        worst = max((finding.level for finding in found), key=["ok", "warn", "fail"].index)
        facts: dict[str, Any] = {"level": worst, "findings": [asdict(finding) for finding in found]}
        facts["cluster"] = asdict(cluster) if cluster is not None else None
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _show(found)
    return found


def _planned(config: "Config", look: bool) -> tuple[float, str]:
    """Bytes that a worker needs, and why that is not known; `look` at the data, if it is here."""
    from fcit_ray.errors import DataError, ModelError
    from fcit_ray.experiment.opening import open_experiment
    from fcit_ray.planning.report import make_plan
    from fcit_ray.planning.speed import Device
    from fcit_ray.runtime.data import sample_encoder

    # Of the device only counts whether it is a GPU: nothing is refused here, and no time is estimated.
    device = Device("GPU", 0.0, 0.0, float(2**60)) if config.runtime.gpu else Device("CPU", 0.0)
    experiment, encoder, missing = None, None, ""
    try:
        if look:
            experiment = open_experiment(config, for_plan=True)
            encoder = sample_encoder(experiment)
    except (DataError, ModelError) as error:
        missing = str(error).splitlines()[0]
    try:
        return make_plan(config, device, config.runtime.num_workers, experiment, encoder).memory.total, ""
    except ModelError as error:
        return 0.0, missing or str(error)


def _show(found: "list[Finding]") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "Looked at", "Found, and what to do"):
        table.add_column(column, overflow="fold")
    for finding in found:
        words = Text(finding.text)
        if finding.remedy:
            words.append(f"\n> {finding.remedy}", style="italic")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.check, words)
    console.print(table, soft_wrap=False)
    counts = {level: sum(finding.level == level for finding in found) for level in _STYLES}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items() if count))
