"""Fixtures of the data layer's tests: the stand-in model and a writer of small data roots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stand_in import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("stand_in")))


@pytest.fixture(scope="session")
def model_spaced(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("stand_in_spaced"), "spaced"))


@pytest.fixture(scope="session")
def model_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("stand_in_llama"), "llama"))


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write `instructions/<dataset>/<file>` under a root that holds one sound image, and return the root."""

    def writer(file: str, items: Any, dataset: str = "ImageNet-R") -> Path:
        path = tmp_path / "instructions" / dataset / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(items if isinstance(items, str) else json.dumps(items))
        image = tmp_path / "datasets" / "ImageNet-R" / "train" / "a.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(image)
        return tmp_path

    return writer
