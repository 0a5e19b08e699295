"""Where the repository is, for tests that look at its files from any folder of theirs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
