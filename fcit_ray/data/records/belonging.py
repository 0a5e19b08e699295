"""Which dataset a training record of a client's file is of: what its file says, its pictures' folder, its task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fcit_ray.config.datasets import Keys
from fcit_ray.data.formats.embedded import as_reference
from fcit_ray.data.formats.shape import Shape
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.parsing import holds_box
from fcit_ray.data.records.place import MARK, Place
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn


def marked(item: Mapping[str, Any], dataset: str, images: str, sha256: str) -> dict[str, Any]:
    """A record that says where it belongs, and of which record it was made."""
    return {**item, MARK: {"dataset": dataset, "images": images, "sha256": sha256}}


def written_shape(source: str, keys: Keys | None = None) -> Callable[[int, Any], Any]:
    """What puts the records of a client's file into LLaVA's shape; those that say where they belong have it.

    Args:
        source: the file.
        keys: under which keys the records of its task's only dataset hold what.
    """
    shape = Shape(source, keys or Keys())

    def shaped(index: int, item: Any) -> Any:
        return item if isinstance(item, Mapping) and MARK in item else shape(index, item)

    return shaped


def place_of(
    collection: Collection, images: Sequence[str], turns: Sequence[Turn], item: Any = None, among: Sequence[str] = ()
) -> Place:
    """Where a training record belongs: by its mark, else by the folder of its first picture, else by its task.

    AOKVQA and Grounding share COCO's images; a record of Grounding names a box, in a question or an answer.

    Args:
        collection: what is declared.
        images: the record's pictures.
        turns: its conversation.
        item: all of it.
        among: the datasets of its task, if that is known.

    Raises:
        DataError: nothing tells.
    """
    if isinstance(item, Mapping) and MARK in item:
        return _by_mark(collection, item[MARK])
    of_folder = None if not images or as_reference(images[0]) else images[0].split("/")[0]
    datasets = {
        name: each for name, each in collection.datasets.items() if of_folder and each.image_folder == of_folder
    }
    if not datasets and (dataset := _by_task(collection, images, among)):
        return _place(collection, dataset, collection[dataset].images)
    if not datasets:
        known = ", ".join(dict.fromkeys(filter(None, (each.image_folder for each in collection.datasets.values()))))
        if not images:
            raise DataError("has no picture, by whose folder its dataset could be told; expected a task of one dataset")
        raise DataError(f"image {images[0]!r} lies in no dataset's folder; known: {known}")
    boxed = any(holds_box(text) for turn in turns for text in (turn.question, turn.answer or ""))
    fitting = [name for name, each in datasets.items() if (each.answer.kind == "box") == boxed]
    dataset = fitting[0] if len(datasets) > 1 and fitting else next(iter(datasets))
    return _place(collection, dataset, datasets[dataset].images)


def _by_task(collection: Collection, images: Sequence[str], among: Sequence[str]) -> str | None:
    """The dataset of a task that has but one; of several, nothing in the record tells."""
    undeclared = [name for name in among if collection[name].image_folder is None]
    if len(among) == 1 and (undeclared or not images):
        return among[0]
    if undeclared:
        keys = ", ".join(f"benchmark.datasets.{name}.image_folder" for name in undeclared)
        what = f"image {images[0]!r}" if images else "no picture"
        raise DataError(
            f"{what}: its dataset cannot be told, as its task has {', '.join(among)}; declare by which first folder of "
            f"their pictures' paths they are told apart: {keys}"
        )
    return None


def _by_mark(collection: Collection, mark: Any) -> Place:
    if not isinstance(mark, Mapping) or not all(isinstance(mark.get(key), str) for key in ("dataset", "images")):
        raise DataError(f"{MARK!r} is {mark!r:.80}; expected the dataset and images that `prepare partition` writes")
    dataset = collection[mark["dataset"]]
    declared = {dataset.images, *(part.images for part in dataset.train or () if part.images is not None)}
    if mark["images"] not in declared:
        raise DataError(
            f"its pictures' paths start at {mark['images']!r}, which benchmark.datasets.{mark['dataset']} does not name"
        )
    return _place(collection, mark["dataset"], mark["images"])


def _place(collection: Collection, dataset: str, start: str) -> Place:
    return collection.place(dataset, start, collection.training_files(dataset))
