"""Identity features of a run: by its workers, each different text or picture once, and never again while kept."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SERVED, Configure
from in_process import run
from PIL import Image
from tiny_clip import write_tiny_clip

from fcit_ray.config.schema import Config
from fcit_ray.data.loading import feature_maker, samples
from fcit_ray.errors import ConfigError, RunFailed
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models.prompt import instruction_text
from fcit_ray.results.opening import open_run
from fcit_ray.runtime.launch import launch
from fcit_ray.runtime.messages import FeatureWork
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.worker import Worker


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def paper(configure: Configure, clip: Path, tmp_path: Path) -> Callable[..., Config]:
    """A run whose identity tokens are CLIP's, with a cache of its own."""

    def make(cache: str | None = "cache", identity: str = "text", **runtime: Any) -> Config:
        folder = None if cache is None else str(tmp_path / cache)
        return configure(
            benchmark={"num_rounds": 1, "tasks": ["IconQA"]},
            model={"identity_encoder": str(clip), "identity": identity, "dropout": 0.0},  # threads share torch's draws
            evaluation={"every_stage": False, "max_new_tokens": 1},
            runtime={"feature_cache": folder, **runtime},
        )

    return make


@pytest.fixture
def none_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that encodes records may load an encoder."""

    def refuse(*_: Any) -> None:
        raise AssertionError("loaded by what encodes records")

    samples._text_encoder.cache_clear()
    samples._image_encoder.cache_clear()
    monkeypatch.setattr(samples, "load_clip_text_encoder", refuse)
    monkeypatch.setattr(samples, "load_clip_image_encoder", refuse)


@pytest.mark.usefixtures("none_in_samples")
@pytest.mark.parametrize("identity", ["text", "both"])
def test_a_run_computes_each_once_and_the_next_finds_them(paper, tmp_path, monkeypatch, identity):
    encoded: list[str] = []
    real = feature_maker.FeatureMaker.make

    def make(self, items):
        encoded.extend(item.content for item in items)
        return real(self, items)

    monkeypatch.setattr(feature_maker.FeatureMaker, "make", make)
    experiment = open_experiment(paper(identity=identity))
    records = [record for part in (*experiment.stream.records, *experiment.tests.values()) for record in part]
    wanted = {instruction_text(record.turns) for record in records}
    if identity == "both":
        wanted |= {name for record in records for name in record.images}
    first = run(paper(identity=identity), tmp_path / "first", workers=2)
    assert set(encoded) <= wanted
    assert len(encoded) == len(set(encoded)), "each once"
    assert {text for text in wanted if " " in text} <= set(encoded)
    assert first["features"]["text"]["computed"] == first["features"]["text"]["different"] > 10
    encoded.clear()
    second = run(paper(identity=identity), tmp_path / "second")
    assert encoded == []
    assert {spent["computed"] for spent in second["features"].values()} == {0}
    assert second["features"].keys() == first["features"].keys()
    without = run(paper(cache=None, identity=identity), tmp_path / "third")
    assert {result["adapters_sha256"] for result in (first, second, without)} == {first["adapters_sha256"]}
    assert first["matrix"] == second["matrix"] == without["matrix"]


def test_who_finds_another_computing_waits_and_takes_what_it_made(paper, tmp_path):
    first = run(paper(), tmp_path / "first")
    [folder] = {path.parent for path in (tmp_path / "cache").glob("*/*.safetensors")}
    # Another process has the lock, and its features come only when it is done.
    code = """
import sys, time
from pathlib import Path
from fcit_ray.results.lock import acquire
folder, hidden = map(Path, sys.argv[1:])
files = sorted(folder.glob("*.safetensors"))
hidden.mkdir()
for path in files:
    path.rename(hidden / path.name)
acquire(folder / ".computing")
print("locked", flush=True)
sys.stdin.readline()
for path in files:
    (hidden / path.name).rename(path)
"""
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "hidden")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        told: list[str] = []

        def show(self: Standing, *args: Any, **changes: Any) -> None:
            told.append(changes.get("message", ""))
            said = f"identity features are being computed by process {other.pid} on .*; waiting for it"
            if re.match(said, told[-1]) and told.count(told[-1]) == 1:
                other.stdin.write("\n")
                other.stdin.flush()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Standing, "show", show)
            second = run(paper(), tmp_path / "second")
    assert second["features"]["text"]["computed"] == 0
    assert second["adapters_sha256"] == first["adapters_sha256"]


def test_the_base_embeddings_are_not_kept(configure: Configure, tmp_path):
    results = run(
        configure(benchmark={"num_rounds": 1}, runtime={"feature_cache": str(tmp_path / "cache")}), tmp_path / "run"
    )
    assert "features" not in results
    assert not (tmp_path / "cache").exists()


def test_what_encodes_is_put_away_before_anything_is_trained(paper, tmp_path):
    held = []

    def perform(worker: Worker, work: Any) -> Any:
        result = worker.perform(work)
        held.append((type(work).__name__, worker._maker is not None))
        return result

    run(paper(cache=None), tmp_path / "run", perform=perform)
    assert set(held) == {("FeatureWork", True), ("TrainWork", False), ("AnswerWork", False)}


def test_a_full_or_forbidden_cache_ends_no_run(paper, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in its place")
    results = run(paper(), tmp_path / "run")
    assert results["features"]["text"]["computed"] > 10
    assert (
        len(re.findall("runtime.feature_cache: .* cannot be written, so the next run computes again", caplog.text)) == 1
    )


def test_a_picture_that_does_not_decode_is_named_with_its_record(paper, configure, tmp_path, monkeypatch):
    def broken(self: Any, where: str, name: str) -> Image.Image:
        raise OSError("broken data stream")

    monkeypatch.setattr(feature_maker.SampleEncoder, "_image", broken)
    with pytest.raises(RunFailed, match="broken data stream"):
        run(paper(identity="image"), tmp_path / "run")


def test_a_cache_in_an_object_store_is_refused(configure: Configure):
    with pytest.raises(ConfigError, match=r"runtime\.feature_cache: .*expected auto, null, or a folder of the machine"):
        configure(runtime={"feature_cache": "s3://bucket/features"})


def test_through_ray_the_bits_are_those_of_one_process(paper, served, tmp_path):
    config = paper(**SERVED, cache_mb=0)  # streamed, so that tasks look features up while workers train
    results = launch(config, open_run(tmp_path / "ray", config, resume=False, overwrite=False), shared=served)
    assert results["features"]["text"]["computed"] > 10
    assert results["adapters_sha256"] == run(paper(cache=None), tmp_path / "here")["adapters_sha256"]


def test_work_says_where_it_belongs(paper):
    from fcit_ray.runtime.places import place_of

    encoder = samples.SampleEncoder("root", "tiny", "bare", 64)
    assert place_of(FeatureWork(encoder, "text", [])) == "identity features of texts"
