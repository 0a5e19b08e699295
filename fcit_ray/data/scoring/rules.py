"""Which rule scores the predictions for a dataset: by its declaration and the run's choices."""

from collections.abc import Iterable
from dataclasses import dataclass

from fcit_ray.config.datasets import Captions, Dataset, Scoring
from fcit_ray.config.schema import Config


@dataclass(frozen=True)
class Rule:
    """How predictions are scored.

    Attributes:
        name: of the rule; `scores.score` says what each does.
        dataset: whose answers they are.
    """

    name: str
    dataset: Dataset


def rule_of(dataset: Dataset, scoring: Scoring = "strict", captions: Captions | None = None) -> Rule:
    """The rule that a dataset's predictions are scored by.

    Args:
        dataset: as it is declared.
        scoring: `strict` or `released`.
        captions: `portable` or `full`; None is what `scoring` implies, `portable` under `strict`.
    """
    answer = dataset.answer
    if answer.kind == "caption":
        if scoring == "released":
            return Rule(answer.released or "caption_released", dataset)
        return Rule("caption_full" if captions == "full" else "caption", dataset)
    return Rule((answer.released if scoring == "released" else None) or answer.kind, dataset)


def rule_for(config: Config, dataset: str) -> Rule:
    """The rule that a run's predictions for a dataset are scored by."""
    return rule_of(config.benchmark.dataset(dataset), config.evaluation.scoring, config.evaluation.captions)


def scored_by(config: Config, datasets: Iterable[str]) -> dict[str, str]:
    """What results say of how they were scored: `scoring`, and `captions` where one of the datasets has captions."""
    names = [rule_for(config, each).name for each in datasets]
    rules = {"caption", "caption_full", "caption_released"} & set(names)
    said = {"scoring": config.evaluation.scoring}
    return said | ({"captions": "portable" if rules == {"caption"} else "full"} if rules else {})
