"""Pre-train the tiny base model and put it where the library ships it.

python -m tools.tiny_base
python -m tools.tiny_base --steps 400 --out /tmp/base     # a quick look
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from fcit_ray.cli.common import exit_on_error
from tools.tiny_base.recipe import Recipe


def _parser(default: object) -> Callable[[str], object]:
    return (lambda text: text.lower() in ("1", "true", "yes")) if isinstance(default, bool) else type(default)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=Recipe.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the finished model (default: where the library ships it)")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints (default: beside --out)")
    parser.add_argument("--resume", type=Path, help="a checkpoint's .resume.pt, to go on from")
    for field in fields(Recipe):
        parser.add_argument(
            f"--{field.name}", type=_parser(field.default), default=field.default, help="(default: %(default)s)"
        )
    arguments = vars(parser.parse_args())
    with exit_on_error("--resume goes on from the last checkpoint in --work"):
        import torch

        from fcit_ray.models.folder import TINY
        from tools.tiny_base.pretrain import pretrain

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        # one thread: two spinning OpenMP threads on a busy two-core box are many times slower
        torch.set_num_threads(1)
        # sums that fade out would otherwise end in numbers that the processor handles a hundred times slower
        torch.set_flush_denormal(True)
        out, work, resume = (arguments.pop(name) for name in ("out", "work", "resume"))
        print(json.dumps(pretrain(Recipe(**arguments), out or TINY, work, resume), indent=1))


if __name__ == "__main__":
    main()
