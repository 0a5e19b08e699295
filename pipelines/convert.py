"""Convert a checkpoint once, so that runs can read it.

python pipelines/convert.py llava-v1.5-7b models/llava-1.5-7b-hf --clip clip-vit-large-patch14-336
python pipelines/convert.py clip-vit-large-patch14-336 models/clip-336    # pytorch_model.bin to safetensors
python pipelines/convert.py llava-v1.5-7b models/llava-1.5-7b-hf --clip clip-vit-large-patch14-336 --check
"""

import argparse
from pathlib import Path

from fcit_ray.cli.common import console, exit_on_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="An original LLaVA-1.5 (liuhaotian/llava-v1.5-7b or -13b) becomes what model.path takes; a CLIP model "
        "becomes what model.identity_encoder takes. No pickle is run: of .bin files only tensors are read.",
    )
    parser.add_argument("source", type=Path, help="folder of the checkpoint as downloaded")
    parser.add_argument("out", type=Path, help="folder to write; complete or absent")
    parser.add_argument("--clip", help="folder or hub name of the CLIP model that the LLaVA looks through")
    parser.add_argument("--check", action="store_true", help="write nothing: compare OUT with SOURCE bit by bit")
    args = parser.parse_args()
    with exit_on_error("nothing that looks finished was left; start it again"):
        from fcit_ray.models.conversion.convert import check, convert
        from fcit_ray.models.conversion.llava_format import make_plan

        plan = make_plan(args.source, args.clip)
        if not args.check:
            convert(plan, args.out, console.print)
        console.print(f"{args.out}: {check(plan, args.out)} tensors, all as in {args.source}")


if __name__ == "__main__":
    main()
