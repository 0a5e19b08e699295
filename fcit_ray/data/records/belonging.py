"""Which dataset a record of a client's file is of, where the file does not say."""

from collections.abc import Sequence

from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.parsing import Place, holds_box
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn


def place_of(collection: Collection, images: Sequence[str], turns: Sequence[Turn]) -> Place:
    """Where a training record belongs, by the folder of its first picture.

    AOKVQA and Grounding share COCO's images; a record of Grounding names a box, in a question or an answer.

    Raises:
        DataError: the folder is no dataset's.
    """
    image = images[0]
    folder = image.split("/")[0]
    datasets = {name: each for name, each in collection.datasets.items() if each.image_folder == folder}
    if not datasets:
        known = ", ".join(dict.fromkeys(filter(None, (each.image_folder for each in collection.datasets.values()))))
        raise DataError(f"image {image!r} lies in no dataset's folder; known: {known}")
    boxed = any(holds_box(text) for turn in turns for text in (turn.question, turn.answer or ""))
    fitting = [name for name, each in datasets.items() if (each.answer.kind == "box") == boxed]
    dataset = fitting[0] if len(datasets) > 1 and fitting else next(iter(datasets))
    return Place(dataset, datasets[dataset].images)
