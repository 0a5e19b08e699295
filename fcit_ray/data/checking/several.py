"""Records with no picture or with several, tried before a run starts: whether the model and its processor take them.

Every model here takes one picture a record (`agreement`); whether it takes none and several is its family's business.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import fields

from fcit_ray.data.checking.agreement import num_features, num_places, pictures_in
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.lengths import LengthEncoder
from fcit_ray.data.loading.samples import SampleEncoder, check_has_identity
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.models.folder import in_one_line, model_folder
from fcit_ray.models.load import load_processor
from fcit_ray.models.structure import skeleton

_log = logging.getLogger(__name__)


def check_pictures(encoder: SampleEncoder, records: Iterable[Record]) -> None:
    """Refuse records that the model cannot take for the number of their pictures.

    Of each number but one the first record is made a sample; then all of these are put into one batch with a record of
    one picture, as a shard may mix them. Costs nothing where every record has one picture. Says in the log how many
    records have none and several: a key that is spelled wrong would be seen there.

    Args:
        encoder: of the run.
        records: all that will be trained on or answered; their lengths have been checked.

    Raises:
        DataError: names the first record that does not go, the model, and what to do.
    """
    everything = list(records)
    firsts: dict[int, Record] = {}
    for record in everything:
        check_has_identity(record, encoder.identity)
        firsts.setdefault(len(record.images), record)
    if set(firsts) <= {1}:
        return
    _say(everything)
    reader = LengthEncoder(**{field.name: getattr(encoder, field.name) for field in fields(encoder)})
    processor = load_processor(encoder.model)
    model = skeleton(model_folder(encoder.model))
    samples: list[Sample] = []
    for number, record in sorted(firsts.items()):
        try:
            sample = reader.encode_test(record) if record.turns[-1].answer is None else reader.encode_train(record)
        except DataError as error:
            if number == 1:
                raise
            said = str(error).removeprefix(f"{record.where}: ")
            raise _error(encoder, record, f"cannot be prepared: {said}") from error
        made = num_features(model, pictures_in(sample))
        places = num_places(model.config, sample)
        if number and made is not None and made != places:
            raise _error(
                encoder,
                record,
                f"do not fit: its {type(processor).__name__} gives them {places} places among the tokens, and the "
                f"vision tower of config.json makes {made} features of them",
            )
        samples.append(sample)
        try:
            Collator.from_processor(processor).prompts(samples)
        except Exception as error:  # a family whose arrays have no rule to be joined by
            raise _error(encoder, record, f"cannot be put into one batch with others: {in_one_line(error)}") from error


def _say(records: Sequence[Record]) -> None:
    for dataset in dict.fromkeys(record.dataset for record in records):
        counts = [len(record.images) for record in records if record.dataset == dataset]
        without, several = counts.count(0), sum(count > 1 for count in counts)
        if without or several:
            _log.warning("%s: of %d records %d name no picture, %d several", dataset, len(counts), without, several)


def _error(encoder: SampleEncoder, record: Record, what: str) -> DataError:
    pictures = f"its {len(record.images)} pictures" if record.images else "records without a picture, as this one is,"
    return DataError(
        f"{record.where}: {pictures} {what} (model.path={encoder.model!r}); expected a model that takes "
        f"{'several' if record.images else 'them'}, or only records of one picture"
    )
