"""A trained model in this process, asked: the frozen base and what was learned, answering as the run's workers do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.data.loading.by_length import Length, batches_of, length_of
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.data.questions.question import Question
from fcit_ray.data.records.images import Opener
from fcit_ray.errors import DataError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import make_bank
from fcit_ray.federated.answering import Answer, answer
from fcit_ray.models.chat import stop_tokens
from fcit_ray.models.load import load_processor
from fcit_ray.serving.opening import views_of
from fcit_ray.serving.trained import Trained
from fcit_ray.storage.location import absolute

SMALLEST_SHARE = 0.01
"""Of the weight of all subspaces: what has less did not give an answer."""


def question_encoder(trained: Trained) -> SampleEncoder:
    """How the model's questions become samples."""
    model, benchmark = trained.config.model, trained.config.benchmark
    return SampleEncoder(
        absolute(benchmark.root),
        model.path,
        model.prompt,
        model.max_length,
        model.identity,
        model.identity_encoder,
        Opener(benchmark.follow_links_to),
    )


class Answerer:
    """Holds the frozen base once and answers with one of the trained models at a time.

    Args:
        trained: made ready for this machine.
        view: which of its models answers first, as in `views_of`.

    Raises:
        ModelError, ConfigError: the base cannot be loaded.
    """

    def __init__(self, trained: Trained, view: str = ""):
        config = trained.config
        self._trained = trained
        algorithm = make_algorithm(config)
        self._method = algorithm.method
        processor = load_processor(config.model.path)
        self._tokenizer = processor.tokenizer
        self._collator = Collator.from_processor(processor)
        self._bank = make_bank(config, algorithm)
        self._stop = stop_tokens(processor, config.model.prompt, self._bank.model.generation_config)
        self._views = views_of(trained)
        self._view: str | None = None
        self.use(view)

    @property
    def num_subspaces(self) -> int:
        """Adapters in the bank, K."""
        return self._bank.num_adapters

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self._bank.device)

    def use(self, view: str) -> None:
        """Answer with this model from now on."""
        if view != self._view:
            self._bank.pack(self._method.deploy(self._views[view], self._trained.state.knowledge))
            self._view = view

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Greedy answers in the order given, in batches of `evaluation.batch_size`."""
        return answer(
            samples,
            self._bank,
            self._method,
            self._trained.state.knowledge,
            self._collator,
            self._tokenizer,
            self._trained.config.evaluation,
            self._stop,
        )


@dataclass(frozen=True)
class Asked:
    """A question that was encoded, or what stood against it.

    Attributes:
        question: with its place.
        sample: what the model takes; None if there is none.
        fault: why there is none.
        length: of the question.
    """

    question: Question
    sample: Sample | None = None
    fault: str = ""
    length: Length = (0, 0)


def encode_all(questions: Sequence[Question], encoder: SampleEncoder) -> list[Asked]:
    """Encode questions one by one; what cannot be encoded says why and stops no other."""
    encoder.remember([question.record for question in questions if not question.fault])
    asked = []
    for question in questions:
        length = length_of(question.record)
        try:
            asked.append(Asked(question, question.encode(encoder), length=length))
        except DataError as error:
            asked.append(Asked(question, fault=str(error), length=length))
    return asked


def answer_lines(asked: Sequence[Asked], answerer: Answerer, batch_size: int) -> list[dict[str, Any]]:
    """The lines of a block, in its order.

    Questions of like length are answered together, as in a run (`by_length`). Those that cannot be asked keep their
    place among them: so one that cannot changes the neighbours of no other batch.
    """
    lines: dict[int, dict[str, Any]] = {}
    for places in batches_of([each.length for each in asked], batch_size):
        batch = [asked[place] for place in places]
        answers = iter(answerer.answer([each.sample for each in batch if each.sample is not None]))
        for place, each in zip(places, batch, strict=True):
            lines[place] = line_of(each, None if each.sample is None else next(answers))
    return [lines[place] for place in range(len(asked))]


def line_of(asked: Asked, given: Answer | None) -> dict[str, Any]:
    """What is said of one question: its id and place, and its answer with the gate that gave it, or its `error`.

    `image` is the name of its picture, null if it has none, a list of names if it has several.
    """
    record = asked.question.record
    image = record.images[0] if len(record.images) == 1 else list(record.images) or None
    line: dict[str, Any] = {"id": record.id, "source": record.source, "index": record.index, "image": image}
    if given is None:
        return {**line, "error": asked.fault}
    text, gate = given
    return {**line, "prediction": text, "gate": list(gate)}


def shown_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line as it is written: with the subspaces that gave the answer, and weights of six digits."""
    if "error" in line:
        return dict(line)
    gate = line["gate"]
    return {**line, "subspaces": given_by(gate), "gate": [round(weight, 6) for weight in gate]}


def given_by(gate: Sequence[float]) -> list[int]:
    """The subspaces that gave an answer, the heaviest first: those with a share of at least `SMALLEST_SHARE`."""
    total = sum(map(abs, gate))
    heavy = [index for index, weight in enumerate(gate) if total and abs(weight) >= SMALLEST_SHARE * total]
    return sorted(heavy, key=lambda index: (-abs(gate[index]), index))
