"""The lower end of every range in pyproject.toml, as constraints for pip: what `make test-lowest` installs.

What the project does not name itself (pandas, scipy ...) takes whatever fits.
"""

import re
import tomllib
from pathlib import Path

_LOWEST = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9][0-9.]*)")


def lowest(requirement: str) -> str | None:
    """`name==version` of a requirement's lower end, or None if it has none."""
    found = _LOWEST.match(requirement)
    return f"{found[1]}=={found[2]}" if found else None


def main() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    print("\n".join(dict.fromkeys(line for requirement in named if (line := lowest(requirement)))))


if __name__ == "__main__":
    main()
