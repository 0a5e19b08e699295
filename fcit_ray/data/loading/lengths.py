"""How long records are in tokens, by looking at a sample of them: what a batch's memory and time follow from."""

from dataclasses import dataclass, fields

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
        pixels: numbers that the processor makes of one picture, in all its tiles or patches, at most; 0 if not known.
        mean_pixels: over the sample.
    """

    longest: int
    mean: float
    answer: int
    mean_answer: float
    sampled: int = 0
    pixels: int = 0
    mean_pixels: float = 0.0


class LengthEncoder(SampleEncoder):
    """Encodes as the run will, but for the frozen features: these would need weights."""

    def _feature(self, record: Record, pixels: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(1, dtype=np.float32)


def measure_lengths(encoder: SampleEncoder, stream: Stream, per_task: int = 16) -> Lengths:
    """Token lengths of a sample of the training records, spread evenly over each task's files.

    Raises:
        DataError: one of them cannot be used.
    """
    reader = LengthEncoder(**{field.name: getattr(encoder, field.name) for field in fields(encoder)})
    totals, answers, firsts, pixels = [], [], [], []
    for records in stream.records:
        for index in np.linspace(0, len(records) - 1, min(per_task, len(records)), dtype=int):
            sample = reader.encode_train(records[index])
            labels = sample["labels"]
            labelled = np.flatnonzero(labels != -100)
            totals.append(len(labels))
            pixels.append(sum(sample[name].size for name in ("pixels", "pixel_values") if name in sample))
            answers.append(len(labelled))
            firsts.append(int(labelled[0]) if len(labelled) else len(labels) - 1)
    longest = max(totals)
    # A batch keeps logits from its earliest answer to its longest record's end; within a task, as batches are.
    per = [range(start, min(start + per_task, len(totals))) for start in range(0, len(totals), per_task)]
    span = max(max(totals[i] for i in group) - min(firsts[i] for i in group) for group in per) + 1
    return Lengths(
        longest, float(np.mean(totals)), span, float(np.mean(answers)), len(totals), max(pixels), float(np.mean(pixels))
    )


def assumed_lengths(config: Config) -> Lengths:
    """Upper bounds where no record can be looked at: every record as long as allowed, answers from half of it on."""
    most = config.model.max_length
    return Lengths(most, float(most), most // 2, float(min(config.evaluation.max_new_tokens, most)))
