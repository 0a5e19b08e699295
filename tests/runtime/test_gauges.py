"""What a record adds to each metric, counted by hand; the page and the dashboard name these metrics and no other."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from fcit_ray.config.schema import Config
from fcit_ray.runtime.gauges import METRICS, RUN_TAGS, Reading, readings, run_tags
from fcit_ray.runtime.timesheet import CAUSES

ROUND: dict[str, Any] = {
    "kind": "round",
    "stage": 2,
    "round": 1,
    "loss": 0.5,
    "global_delta_norm": 3.0,
    "bytes_down": 700,
    "bytes_up": 300,
    "epsilon": 1.5,
    "clients": [{"client": 0, "num_examples": 10}, {"client": 4, "num_examples": 32}],
    "workers": [
        {"worker": 0, "compute_s": 3.0, "starved_s": 0.5, "idle_s": 0.0},
        {"worker": 1, "compute_s": 1.0, "starved_s": 0.25, "idle_s": 0.0},
    ],
    "workers_there": 1,
    "workers_wanted": 2,
    "seconds": {"prepare": 0.5, "train": 4.0},
}
EVALUATION: dict[str, Any] = {
    "kind": "evaluation",
    "stage": -1,
    "scores": {"ArxivQA": 40.0, "IconQA": 60.0, "odd": None},
    "transfer": {"TextVQA": 12.5},
    "num_records": 96,
    "answer_tokens": 0,
    "seconds": {"prepare": 0.25, "answer": 2.0},
}


def found(record: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Readings by name and the values of their own tags; all must be of the record's stage."""
    told = readings(record)
    assert {reading.tags["stage"] for reading in told} == {str(record["stage"])}
    own = {(r.name, *(value for key, value in r.tags.items() if key != "stage")): r.value for r in told}
    assert len(own) == len(told)  # no metric is told twice
    return own


def test_a_round_adds_what_its_record_says() -> None:
    assert found(ROUND) == {
        ("fcit_ray_rounds",): 1,
        ("fcit_ray_clients_trained",): 2,
        ("fcit_ray_records_trained",): 42,
        ("fcit_ray_bytes", "down"): 700,
        ("fcit_ray_bytes", "up"): 300,
        ("fcit_ray_workers", "there"): 1,
        ("fcit_ray_workers", "wanted"): 2,
        ("fcit_ray_worker_seconds", "compute"): 4.0,
        ("fcit_ray_worker_seconds", "starved"): 0.75,
        ("fcit_ray_phase_seconds", "prepare to train"): 0.5,
        ("fcit_ray_phase_seconds", "train"): 4.0,
        ("fcit_ray_loss",): 0.5,
        ("fcit_ray_delta_norm",): 3.0,
        ("fcit_ray_epsilon",): 1.5,
    }


def test_an_evaluation_becomes_scores_of_its_stage_and_what_is_not_defined_says_nothing() -> None:
    assert found(EVALUATION) == {
        ("fcit_ray_questions_answered",): 96,
        ("fcit_ray_phase_seconds", "prepare to evaluate"): 0.25,
        ("fcit_ray_phase_seconds", "answer"): 2.0,
        ("fcit_ray_score", "ArxivQA"): 40.0,
        ("fcit_ray_score", "IconQA"): 60.0,
        ("fcit_ray_score_mean",): 50.0,
        ("fcit_ray_transfer_score", "TextVQA"): 12.5,
    }


@pytest.mark.parametrize(
    ("failures", "retries", "drops"),
    [
        ([{"client": 3, "attempts": ["x"], "dropped": False}], 1, 0),  # mended by its second attempt
        ([{"client": 3, "attempts": ["x", "x", "x"], "dropped": True}], 2, 1),  # three attempts, two of them again
        ([{"client": 3, "attempts": ["x"], "dropped": True}], 0, 1),  # none was allowed
    ],
)
def test_retries_and_drops_are_counted_of_the_failed_attempts(
    failures: list[dict[str, Any]], retries: int, drops: int
) -> None:
    told = found({**ROUND, "failures": failures})
    assert (told.get(("fcit_ray_retries",), 0), told.get(("fcit_ray_drops",), 0)) == (retries, drops)


def test_a_loss_that_is_null_and_another_kind_of_record_say_nothing() -> None:
    assert ("fcit_ray_loss",) not in found({**ROUND, "loss": None})
    assert readings({"kind": "something new", "stage": 0}) == []


def test_every_reading_has_the_tags_that_its_metric_declares() -> None:
    failures = [{"attempts": ["x", "x"], "dropped": True}]
    all_of_them = readings({**ROUND, "failures": failures}) + readings({**EVALUATION, "answer_tokens": 5})
    assert {reading.name for reading in all_of_them} == set(METRICS)
    for reading in all_of_them:
        assert {*reading.tags, "run", "method"} == set(METRICS[reading.name].tags)


def test_a_run_is_called_as_trackers_call_it() -> None:
    benchmark = {"root": "x", "tasks": ["IconQA"]}
    config = Config.model_validate({"name": "a", "seed": 3, "method": {"name": "disco"}, "benchmark": benchmark})
    assert run_tags(config) == {"run": "a-seed3", "method": "disco"}
    assert Reading("fcit_ray_rounds", 1).tags == {}


# The page and the dashboard.

DASHBOARD = ROOT / "deploy/grafana/fcit_ray.json"
EXPORTED = {metric.exported for metric in METRICS.values()}


def test_the_page_has_every_metric_with_its_own_words() -> None:
    page = (ROOT / "docs/how-to/watch.md").read_text()
    rows = dict(re.findall(r"^\| `(ray_\w+)` \| (.*) \|$", page, re.MULTILINE))
    said = {
        m.exported: f"{m.kind} | {f'`{m.tag}`' if m.tag else ''} | {m.about}".replace("|  |", "| |")
        for m in METRICS.values()
    }
    assert rows == said
    causes = re.search(r"`cause` is one of (.*?):", page.replace("\n", " "))
    assert causes is not None
    assert causes[1].replace("`", "").split(", ") == [cause.removesuffix("_s") for cause in CAUSES]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", []))]


def test_the_dashboard_asks_for_metrics_of_ours_alone_and_for_all_of_them() -> None:
    asked = set()
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            assert names
            assert names <= EXPORTED, panel["title"]
            assert target["expr"].count("{") == len(re.findall(r'\{run=~"\$run"', target["expr"])), panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")"), panel["title"]
            for label in re.findall(r"\bby \(([\w, ]*)\)", target["expr"]):
                metric = next(m for m in METRICS.values() if m.exported in names)
                assert set(label.split(", ")) <= set(metric.tags), panel["title"]
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= {*RUN_TAGS, *(m.tag for m in METRICS.values())}, panel["title"]
            asked |= names
    assert asked == EXPORTED


def test_grafana_can_load_the_dashboard() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert "id" not in dashboard  # Grafana gives one; a given one would replace somebody's own
    assert 1 <= len(dashboard["uid"]) <= 40
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run"]["multi"]
    assert variables["run"]["includeAll"]
    assert re.fullmatch(rf"label_values\(({'|'.join(EXPORTED)}), run\)", variables["run"]["query"]["query"])
    ids = Counter(panel["id"] for panel in panels(dashboard))
    assert set(ids.values()) == {1}
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]  # no panel lies on another
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


def test_the_dashboard_lies_where_the_page_says() -> None:
    assert f"`{DASHBOARD.relative_to(ROOT)}`" in Path(ROOT / "docs/how-to/watch.md").read_text()


@pytest.mark.usefixtures("cluster")
def test_ray_takes_every_metric_and_a_gauge_is_set_again_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util.metrics import Counter as RayCounter
    from ray.util.metrics import Gauge

    from fcit_ray.runtime.ray_gauges import RayGauges

    told: list[tuple[str, float]] = []
    for kind, method in ((Gauge, "set"), (RayCounter, "inc")):
        real = getattr(kind, method)

        def note(self: Any, value: float, tags: dict[str, str], real: Any = real) -> None:
            real(self, value, tags)  # which refuses a missing tag
            told.append((self.info["name"], value))

        monkeypatch.setattr(kind, method, note)
    gauges = RayGauges({"run": "a", "method": "b"}, again_s=0.01)
    gauges(ROUND)
    deadline = time.monotonic() + 10.0
    while told.count(("fcit_ray_loss", 0.5)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    gauges.close()
    assert told.count(("fcit_ray_loss", 0.5)) >= 3
    assert told.count(("fcit_ray_rounds", 1)) == 1  # a counter would grow
