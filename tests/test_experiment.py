"""What is refused before anything starts."""

from typing import Any

import pytest

from fcit_ray.config import ConfigError, parse_config
from fcit_ray.data import coco_java
from fcit_ray.experiment import check_scoring


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
