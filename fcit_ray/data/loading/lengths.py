"""How long records are in tokens, by looking at a sample of them: what a batch's memory and time follow from."""

from dataclasses import dataclass, fields, replace

import numpy as np

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.partition.stream import Stream
from fcit_ray.data.records.layout import Record


@dataclass(frozen=True)
class Lengths:
    """Tokens of records.

    Attributes:
        longest: of one record, image included; `model.max_length` where no data is at hand.
        mean: over the sample.
        answer: positions with logits in the batch that needs most: from the first answer token of any record on.
        mean_answer: answer tokens of a record.
        sampled: records looked at; 0 if there were none, and the others are upper bounds.
        pixels: numbers that the processor makes of a record's pictures, in all their tiles or patches, at most; 0 if no
            record has any, None if that is not known.
        mean_pixels: over the sample.
    """

    longest: int
    mean: float
    answer: int
    mean_answer: float
    sampled: int = 0
    pixels: int | None = None
    mean_pixels: float | None = None


class LengthEncoder(SampleEncoder):
    """Encodes as the run will, but for the frozen features: these would need weights."""

    def _feature(self, record: Record, pixels: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(1, dtype=np.float32)


def measure_lengths(encoder: SampleEncoder, stream: Stream, per_task: int = 16) -> Lengths:
    """Token lengths of a sample of the training records, spread evenly over each task's files.

    Of each task the record of most pictures is looked at as well, for what is needed at most.

    Raises:
        DataError: one of them cannot be used.
    """
    reader = LengthEncoder(**{field.name: getattr(encoder, field.name) for field in fields(encoder)})
    totals: list[int] = []
    answers: list[int] = []
    pixels: list[int] = []
    spread: list[bool] = []
    span, unknown = 0, False
    for records in stream.records:
        chosen = np.linspace(0, len(records) - 1, min(per_task, len(records)), dtype=int).tolist()
        most = max(range(len(records)), key=lambda index: len(records[index].images))
        firsts, begin = [], len(totals)
        for index in [*chosen, *([most] if len(records[most].images) > 1 and most not in chosen else ())]:
            sample = reader.encode_train(records[index])
            labels = sample["labels"]
            labelled = np.flatnonzero(labels != -100)
            totals.append(len(labels))
            pixels.append(sum(sample[name].size for name in ("pixels", "pixel_values") if name in sample))
            unknown |= bool(records[index].images) and not pixels[-1]
            answers.append(len(labelled))
            firsts.append(int(labelled[0]) if len(labelled) else len(labels) - 1)
            spread.append(index in chosen)
        # A batch keeps logits from its earliest answer to its longest record's end; within a task, as batches are.
        span = max(span, max(totals[begin:]) - min(firsts) + 1)
    tokens, answered, pictured = (
        float(np.mean([value for value, even in zip(values, spread, strict=True) if even]))
        for values in (totals, answers, pixels)
    )
    lengths = Lengths(max(totals), tokens, span, answered, sum(spread))
    return lengths if unknown else replace(lengths, pixels=max(pixels), mean_pixels=pictured)


def assumed_lengths(config: Config) -> Lengths:
    """Upper bounds where no record can be looked at: every record as long as allowed, answers from half of it on."""
    most = config.model.max_length
    return Lengths(most, float(most), most // 2, float(min(config.evaluation.max_new_tokens, most)))
