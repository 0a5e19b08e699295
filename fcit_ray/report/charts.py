"""Vega-Lite specifications: lines, bars and points in the colours of the page, light or dark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

NUM_COLOURS = 8
_DASHES = ((1, 0), (6, 3), (2, 2))
_HEIGHT = 240


def line_chart(
    points: Iterable[Mapping[str, Any]],
    series: Sequence[str],
    *,
    x: Spec,
    y: Spec,
    description: str,
    breaks: bool = False,
    rules: Sequence[float] = (),
    tooltip: Sequence[Spec] = (),
) -> Spec:
    """A line a series, with its points.

    Args:
        points: `x`, `y`, `series`; with `breaks` also `part`: lines join points of one part alone.
        series: names, in the order of their colours.
        x: axis and scale of `x`.
        y: the same of `y`.
        description: for those who do not see it.
        breaks: whether lines are broken between parts.
        rules: where to draw upright lines behind everything.
        tooltip: more of what is told of a point.
    """
    colours, dashes = _looks(len(series))
    colour = {"field": "series", "type": "nominal", "legend": None, "scale": {"domain": [*series], "range": colours}}
    encoding: Spec = {
        "x": {"field": "x", "type": "quantitative", **x},
        "y": {"field": "y", "type": "quantitative", **y},
        "color": colour,
        "tooltip": [
            *([{"field": "series", "type": "nominal", "title": "series"}] if len(series) > 1 else []),
            *tooltip,
            {"field": "y", "type": "quantitative", "title": y.get("title", "value"), "format": ".4~g"},
        ],
    }
    line = dict(encoding)
    if len(series) > NUM_COLOURS:
        line["strokeDash"] = {**colour, "scale": {"domain": [*series], "range": dashes}}
    if breaks:
        line["detail"] = {"field": "part", "type": "nominal"}
    layers: list[Spec] = [
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": line},
        {"mark": {"type": "point", "filled": True, "size": 28, "opacity": 1}, "encoding": encoding},
    ]
    return _spec({"layer": [*_upright(rules), *layers]}, points, description)


def bar_chart(bars: Iterable[Mapping[str, Any]], series: Sequence[str], *, x: Spec, y: Spec, description: str) -> Spec:
    """Upright bars, stacked where a place has several series: `x`, `y`, `series`."""
    colours, _ = _looks(len(series))
    return _spec(
        {
            "mark": {"type": "bar"},
            "encoding": {
                "x": {"field": "x", "type": "ordinal", **x},
                "y": {"field": "y", "type": "quantitative", "stack": "zero", **y},
                "color": {"field": "series", "type": "nominal", "legend": None,
                          "scale": {"domain": [*series], "range": colours}},
                "order": {"field": "rank", "type": "quantitative"},
                "tooltip": [
                    {"field": "series", "type": "nominal", "title": "series"},
                    {"field": "x", "type": "ordinal", "title": x.get("title", "place")},
                    {"field": "y", "type": "quantitative", "title": y.get("title", "value"), "format": ".4~g"},
                ],
            },
        },
        bars,
        description,
    )  # fmt: skip


def flat_bars(bars: Sequence[Mapping[str, Any]], *, title: str, description: str) -> Spec:
    """Lying bars, one a name: `name`, `value`."""
    spec = _spec(
        {
            "mark": {"type": "bar", "color": "var(--s1)", "height": {"band": 0.7}},
            "encoding": {
                "y": {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "ticks": False}},
                "x": {"field": "value", "type": "quantitative", "axis": {"title": title, "tickCount": 5, "grid": True}},
                "tooltip": [
                    {"field": "name", "type": "nominal", "title": "task"},
                    {"field": "value", "type": "quantitative", "title": title, "format": ".4~g"},
                ],
            },
        },
        bars,
        description,
    )
    return {**spec, "height": 64 + 24 * len(bars)}


def with_points(spec: Spec, points: Iterable[Mapping[str, Any]], tooltip: Sequence[Spec]) -> Spec:
    """A line chart with a cloud of points (`x`, `y`) of its own behind the lines."""
    cloud: Spec = {
        "data": {"values": [*points]},
        "mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.65, "color": "var(--s2)"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "y": {"field": "y", "type": "quantitative"},
            "color": {"value": "var(--s2)"},
            "tooltip": [*tooltip],
        },
    }
    return {**spec, "layer": [cloud, *spec["layer"]]}


def stage_axis(num_stages: int) -> Spec:
    """An x axis of stages, counted from 1, on which rounds may lie between them: stage s reaches half to each side."""
    step = -(-num_stages // 12)
    return {
        "scale": {"domain": [0.5, num_stages + 0.5], "nice": False, "zero": False},
        "axis": {"title": "stage", "values": [*range(1, num_stages + 1, step)], "format": "d", "grid": False},
    }


def score_axis(highest: float) -> Spec:
    """A y axis of percent; captions scored as released may pass 100."""
    return {"title": "score (%)", "scale": {"domain": [0, max(100.0, highest)]}, "axis": {"tickCount": 5}}


def place_of(stage: int, round: int, num_rounds: int) -> float:
    """Where a round lies on a `stage_axis`."""
    return stage + 0.5 + (round + 0.5) / num_rounds


def _upright(rules: Sequence[float]) -> list[Spec]:
    if not rules:
        return []
    return [
        {
            "data": {"values": [{"x": place} for place in rules]},
            "mark": {"type": "rule", "color": "var(--line)", "aria": False},
            "encoding": {"x": {"field": "x", "type": "quantitative"}},
        }
    ]


def _looks(count: int) -> tuple[list[str], list[list[int]]]:
    """Colours and dashes of the series: the page's variables, so that they change with light and dark."""
    colours = [f"var(--s{1 + index % NUM_COLOURS})" for index in range(count)]
    return colours, [[*_DASHES[index // NUM_COLOURS % len(_DASHES)]] for index in range(count)]


def _spec(body: Spec, values: Iterable[Mapping[str, Any]], description: str) -> Spec:
    return {
        "description": description,
        "width": "container",
        "height": _HEIGHT,
        "data": {"values": [*values]},
        **body,
    }
