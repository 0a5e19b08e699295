"""What is installed here, as constraints for pip: run in an environment in which the tests have passed.

Left out is what would shut out another machine: this project itself, local builds (`torch==2.13.0+cpu` is 2.13.0
elsewhere), and what belongs to one kind of GPU, which torch pins by itself.
"""

import re
from importlib import metadata

_OF_A_GPU = re.compile(r"nvidia-|cuda-|triton|pytorch-triton", re.IGNORECASE)

HEADER = """\
# The versions that the tests passed with; `make` installs these. Written by `make constraints` (docs/versions.md).
# Constraints only hold back what is installed anyway: nothing here needs to fit a machine that does without it."""


def main() -> None:
    lines = {
        f"{dist.name}=={dist.version.split('+')[0]}"
        for dist in metadata.distributions()
        if dist.name != "fcit_ray" and not _OF_A_GPU.match(dist.name)
    }
    print(HEADER, *sorted(lines, key=str.lower), sep="\n")


if __name__ == "__main__":
    main()
