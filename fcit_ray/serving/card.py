"""README.md of an export: a model card in the hub's format, of what the run knows and nothing else."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fcit_ray.config.schema import Config, dump_config
from fcit_ray.federated.gates import PortableGate, RouterGate, SimilarityGate
from fcit_ray.serving.adapter import loose_parameters
from fcit_ray.serving.gate_files import prompt_around, why_not_text
from fcit_ray.serving.manifest import CARD
from fcit_ray.serving.source import Source
from fcit_ray.storage.file_names import file_name
from fcit_ray.storage.location import is_uri, redact
from fcit_ray.version import __version__

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#])")
_ACTIVATIONS: Final = {
    "softmax": "the softmax of its cosines to the identity tokens, divided by {temperature}",
    "argmax": "one for the nearest identity token and zero for the others",
    "cosine": "its cosines to the identity tokens",
}
_NONE: Final = "-"
"""In the place of a figure that there is not."""


@dataclass(frozen=True)
class Card:
    """What a card tells beside the run itself.

    Attributes:
        source: the run.
        gate: how its answers weigh the adapters.
        license: the hub's identifier, if one was given.
        task: whose mean weights were merged.
        folded: mean weights by task, where they were folded into adapters or merged, (K,).
        with_base: whether the base lies beside the adapter.
        merged: whether it is a whole model.
    """

    source: Source
    gate: PortableGate | None
    license: str | None
    task: str | None
    folded: Mapping[str, list[float]]
    with_base: bool
    merged: bool


def write_card(folder: Path, card: Card) -> None:
    """Write README.md.

    Raises:
        OSError: the disk is full, or the like.
    """
    (folder / CARD).write_text(render_card(card), encoding="utf-8")


def render_card(card: Card) -> str:
    """The text of README.md."""
    environment = Environment(  # of plain text: Markdown's signs are escaped by the filter `md`
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["md"] = in_markdown
    text = environment.get_template("card.md.jinja").render(_values(card))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def in_markdown(text: Any) -> str:
    """A text of somebody's as it is, on one line: no sign in it means anything to Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _values(card: Card) -> dict[str, Any]:
    source, gate = card.source, card.gate
    config, results, model = source.config, source.results, source.config.model
    benchmark = config.benchmark
    tasks = [task.name for task in benchmark.tasks]
    tiny, local = model.path == "tiny", Path(model.path).expanduser().exists()
    base = "the tiny LLaVA of fcit_ray" if tiny else Path(model.path).name if local else model.path
    similarity = gate if isinstance(gate, SimilarityGate) else None
    return {
        "metadata": _metadata(card, base),
        "title": f"{results['label']} on {base}",
        "base": base,
        "tiny": tiny,
        "local": local and not tiny,
        "regime_name": config.regime,
        "regime": {"federated": "simulated federated learning", "centralised": "one client that holds all data"}[
            config.regime
        ],
        "version": __version__,
        "tasks": tasks,
        "merged": card.merged,
        "task": card.task,
        "folded": dict(card.folded),
        "names": {name: file_name(name).replace(" ", "%20") for name in card.folded},
        "several_datasets": any(len(task.datasets) > 1 for task in benchmark.tasks),
        "with_base": card.with_base,
        "gate": type(gate).__name__ if gate is not None else "",
        "gate_layers": similarity is not None and similarity.layers is not None,
        "refused": why_not_text(source) if similarity else None,
        "activation": _ACTIVATIONS[similarity.activation].format(temperature=similarity.temperature)
        if similarity
        else "",
        "remembered": len(similarity.remembered) if similarity else 0,
        "adapters": source.bank.num_adapters,
        "rank": source.bank.rank,
        "gated": isinstance(gate, SimilarityGate | RouterGate),
        "base_argument": f'"{"DIR/base" if card.with_base else "BASE" if local else model.path}"',
        "dtype_argument": ', dtype="bfloat16"' if model.dtype == "bfloat16" else "",
        "dtype": model.dtype,
        "quantize": model.quantize,
        "loose": ", ".join(f"`{name}`" for name in loose_parameters(source)),
        "prompt": _prompt(model.prompt),
        "square": model.prompt != "chat",
        "max_new_tokens": config.evaluation.max_new_tokens,
        "max_test_records": benchmark.max_test_records,
        "label": results["label"],
        "seed": config.seed,
        "scoring": results.get("scoring", config.evaluation.scoring),
        "client": source.client,
        "rows": _rows(results),
        "figures": {key: _figure(results.get(key)) for key in ("last", "avg", "forgetting", "bwt")},
        "transfer": results.get("transfer", {}).get("scores", {}),
        "miniature": not is_uri(benchmark.root) and (Path(benchmark.root) / "miniature.json").is_file(),
        "stream": _stream(config),
        "method": source.name(),
        "server": config.server["name"],
        "local_rule": config.local["name"],
        "lora": config.lora["name"],
        "robust": config.robust["name"],
        "privacy": config.privacy["name"],
        "source": _source(source),
        "licence": _licence(card.license),
        "config": redact(dump_config(config)).rstrip(),
    }


def _metadata(card: Card, base: str) -> str:
    """The card's YAML, as the hub reads it."""
    source = card.source
    model, results = source.config.model, source.results
    named = model.path != "tiny" and not Path(model.path).expanduser().exists()
    last = results["matrix"][-1]
    evaluated = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", name.lower()),
            dataset_name=name,
            dataset_split=source.config.benchmark.split,
            metric_type="score",
            metric_name="after the last stage, percent",
            metric_value=round(score, 2),
        )
        for name, score in zip(results["tasks"], last, strict=True)
        if score is not None and source.client is None and card.task is None
    ]
    data = ModelCardData(
        base_model=model.path if named else None,  # a folder's path would be no name to anybody
        library_name="transformers" if card.merged else "peft",
        pipeline_tag="image-text-to-text",
        license=card.license or "unknown",
        tags=[*([] if card.merged else ["lora"]), "federated-learning", "continual-learning", "fcit_ray"],
        model_name=results["label"] if evaluated else None,
        eval_results=evaluated or None,
    )
    return data.to_yaml().strip()


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    matrix = results["matrix"]
    rows = []
    for index, name in enumerate(results["tasks"]):
        scores = [row[index] for row in matrix if row[index] is not None]
        count = results.get("num_records", {}).get(name, _NONE)
        learned, last = (_figure(scores[0]), _figure(matrix[-1][index])) if scores else (_NONE, _NONE)
        rows.append({"name": name, "learned": learned, "last": last, "count": count})
    return rows


def _figure(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _stream(config: Config) -> str:
    """Who held what, in words."""
    benchmark = config.benchmark
    if config.regime != "federated":
        return "all records with one client, in one stage"
    schedule = f"{benchmark.schedule} stream" if isinstance(benchmark.schedule, str) else "a stream of its own"
    shared = f"`{benchmark.partition}`"
    if benchmark.partition == "dirichlet":
        shared += f" with \u03b2 = {benchmark.beta:g}"
    return (
        f"{schedule}, {benchmark.num_clients} clients, {benchmark.clients_per_round} of them in each of "
        f"{benchmark.num_rounds} rounds a stage, records shared out by {shared}"
    )


def _prompt(template: str) -> str:
    around = prompt_around(template)
    if around is None:
        return "in the base's own chat template"
    return f"as `{'…'.join(around)}`".replace("\n", r"\n")


def _source(source: Source) -> str:
    """What a method's file names as its source: the paragraph that begins so."""
    doc = sys.modules[type(source.algorithm.method).__module__].__doc__ or ""
    found = re.search(r"^Source: (.+?)(?:\n\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def _licence(license: str | None) -> str:
    if license is None:
        return "None was stated by who made this export. The base and the data have terms of their own."
    return f"`{license}`, as stated by who made this export. The base and the data have terms of their own."
