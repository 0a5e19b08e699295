"""What is refused before anything starts."""

import shutil
from typing import Any

import pytest

from fcit_ray.config.schema import parse_config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.scoring import coco_java
from fcit_ray.errors import ConfigError, DataError, ModelError
from fcit_ray.experiment.opening import check_scoring, open_experiment
from fcit_ray.models.folder import TINY


def run(**evaluation: str) -> Any:
    return parse_config({"benchmark": {"tasks": ["DVQA", "Flickr30k-cap"]}, "evaluation": evaluation})


def test_what_needs_java_is_refused_at_the_door_without_it(tmp_path, monkeypatch):
    coco_java.check_java.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    for config, key in ((run(scoring="released"), "scoring=released"), (run(captions="full"), "captions=full")):
        with pytest.raises(ConfigError, match=rf"evaluation\.{key}: METEOR .* of Flickr30k-cap need Java: .*install"):
            check_scoring(config)
    check_scoring(run())
    check_scoring(parse_config({"benchmark": {"tasks": ["DVQA"]}, "evaluation": {"scoring": "released"}}))


def test_released_scoring_has_no_portable_captions():
    with pytest.raises(ConfigError, match=r"evaluation\.captions: .*expected full or null"):
        run(scoring="released", captions="portable")


def test_a_plan_needs_of_a_model_its_configuration_alone(tmp_path):
    write_miniature(tmp_path / "data", num_train=3, num_validation=1, num_test=1)
    (tmp_path / "model").mkdir()
    one = {"num_clients": 1, "clients_per_round": 1, "min_samples": 1}
    values = {
        "benchmark": {"root": str(tmp_path / "data"), "tasks": ["DVQA"], **one},
        "model": {"path": str(tmp_path / "model"), "max_length": 20},
    }
    shutil.copy(TINY / "config.json", tmp_path / "model")
    assert len(open_experiment(parse_config(values), for_plan=True).stream.records[0]) == 3
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        open_experiment(parse_config(values))
    shutil.copytree(TINY, tmp_path / "model", dirs_exist_ok=True)
    open_experiment(parse_config(values), for_plan=True)
    with pytest.raises(DataError, match=r"4 of 4 records exceed model\.max_length=20"):  # 16 tokens of picture alone
        open_experiment(parse_config(values))
