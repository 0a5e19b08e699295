"""`fcit-ray convert`: a checkpoint, once, into what runs read."""

from pathlib import Path
from typing import Annotated

import typer

from fcit_ray.cli.common import console, exit_on_error, tell


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of the checkpoint as downloaded.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; complete or absent.")],
    clip: Annotated[
        str | None, typer.Option(help="Folder or hub name of the CLIP model that the LLaVA looks through.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: compare TARGET with SOURCE bit by bit.")
    ] = False,
) -> None:
    """Convert a checkpoint once, so that runs can read it.

    An original LLaVA-1.5 (liuhaotian/llava-v1.5-7b or -13b) becomes what model.path takes; a CLIP model becomes what
    model.identity_encoder takes. No pickle is run: of .bin files only tensors are read.

    \b
    fcit-ray convert llava-v1.5-7b models/llava-1.5-7b --clip clip-vit-large-patch14-336
    fcit-ray convert clip-vit-large-patch14-336 models/clip-336    # pytorch_model.bin to safetensors
    """
    with exit_on_error("nothing that looks finished was left; start it again"):
        tell(f"reading {source} ...")
        from fcit_ray.models.conversion import convert as conversion
        from fcit_ray.models.conversion.llava_format import make_plan

        plan = make_plan(source, clip)
        if not check:
            conversion.convert(plan, target, console.print)
        console.print(f"{target}: {conversion.check(plan, target)} tensors, all as in {source}")
