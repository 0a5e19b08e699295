"""`fcit-ray export`: a finished run as a PEFT adapter, or as a merged model."""

from pathlib import Path
from typing import Annotated

import typer

from fcit_ray.cli.common import as_place, console, exit_on_error, tell
from fcit_ray.cli.job import refuse_passing


def export(
    run: Annotated[str, typer.Argument(help="Folder of a finished run, or its URI.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; complete or absent.")],
    license: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The hub's identifier of the adapter's licence, for the model card."),
    ] = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="Copy the frozen base too (tiny always is).")] = False,
    per_task: Annotated[
        bool, typer.Option("--per-task", help="Beside it an adapter a task, with the task's mean weights folded in.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model instead, with the adapters in its weights.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose mean weights --merge takes, where a gate weighs every question anew."),
    ] = None,
    client: Annotated[
        int | None, typer.Option(metavar="N", help="Whose model, where every client has one of its own (FedSA).")
    ] = None,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Upload it to the Hugging Face hub.")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A repository that --push makes is public; else it is private.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in OUT.")] = False,
) -> None:
    """Export a finished run as what stock PEFT loads, or with --merge what plain transformers loads.

    With it come a model card, the gate where the method has one, and a program of its own that answers through it
    without fcit_ray.

    \b
    fcit-ray export runs/miniature/disco exported/disco
    fcit-ray export runs/miniature/finetune merged/finetune --merge --license apache-2.0
    """
    with exit_on_error(f"nothing was left in {out}; start it again"):
        refuse_passing(out, "OUT")
        tell(f"reading {run} ...")
        from fcit_ray.errors import ExportError
        from fcit_ray.serving.export import export as write
        from fcit_ray.serving.push import check_push
        from fcit_ray.serving.push import push as upload

        if public and push is None:
            raise ExportError("--public: says how --push makes a repository; leave it out, or give --push ORG/NAME")
        if push is not None:
            check_push(push, private=not public)
        options = {"license": license, "with_base": with_base, "per_task": per_task, "overwrite": overwrite}
        write(as_place(run), out, merge=merge, task=task, client=client, say=tell, **options)  # type: ignore[arg-type]
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        console.print(f"{out}: {size / 1e6:,.1f} MB; README.md says how to load it")
        if push is not None:
            console.print(f"{upload(out, push, private=not public)}: uploaded")
