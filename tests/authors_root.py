"""A data root as the authors of FCIT publish it: their folders, file names and record formats, twelve datasets.

Every dataset asks in the words of its own kind, so that instructions tell the tasks apart. The first image of a
dataset's training and of its test file is an odd one (see `ODD`), the others are small plain pictures. The same
arguments give the same bytes.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fcit_layout import FCIT
from PIL import Image

TASK_RELATED = (
    *("ArxivQA", "Flickr30k-cap", "ImageNet-R", "OCRVQA", "IconQA", "CLEVR-Math", "FigureQA"),
    "super-CLEVR",
)
CAPABILITIES = (
    ("AOKVQA", "IconQA", "Grounding", "ImageNet-R"),
    ("ArxivQA", "FigureQA", "DVQA"),
    ("CLEVR-Math", "super-CLEVR", "TabMWP"),
    ("Flickr30k-cap", "OCRVQA"),
)
# The partitioned files have been seen in another order of the tasks than the released code's.
PARTITION_ORDER = (
    *("ImageNet-R", "ArxivQA", "IconQA", "CLEVR-Math", "OCRVQA", "Flickr30k-cap", "FigureQA"),
    "super-CLEVR",
)
PARTITION_CAPABILITIES = (
    ("ImageNet-R", "AOKVQA", "IconQA", "Grounding"),
    *CAPABILITIES[1:],
)
SIZE = (64, 48)  # of a plain picture
SINGLE = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."

# Where the picture of a record lies below datasets/; `./` stands before it where the authors' files have it.
IMAGES = {
    "AOKVQA": "COCO2014/{split}2014/COCO_{split}2014_{number:012d}.jpg",
    "ArxivQA": "ArxivQA/images/0704.{number:04d}_0.jpg",
    "CLEVR-Math": "CLEVR/images/{split}/CLEVR_{split}_{number:06d}.png",
    "DVQA": "./DVQA/images/bar_{split}_{number:08d}.png",
    "FigureQA": "FigureQA/images/{split}_{number}.png",
    "Flickr30k-cap": "Flickr30k/{split}/10003{number:05d}.jpg",
    "Grounding": "COCO2014/{split}2014/COCO_{split}2014_{number:012d}.jpg",
    "IconQA": "IconQA/iconqa_data/iconqa/{split}/choose_txt/{number}/image.png",
    "ImageNet-R": "ImageNet-R/{split}/n{number:08d}/art_{number}.jpg",
    "OCRVQA": "OCR-VQA/images/00265{number:04d}X.jpg",
    "TabMWP": "./TabMWP/tables/{number}.png",
    "super-CLEVR": "super-CLEVR/images/superCLEVR_new_{number:06d}.png",
}
HELD_OUT = {"IconQA": "val", "AOKVQA": "val", "Flickr30k-cap": "val"}  # the test images' folder, elsewhere `test`

ODD = {
    "AOKVQA": "wide",
    "ArxivQA": "cmyk",
    "CLEVR-Math": "rgba",
    "DVQA": "grey_alpha",
    "FigureQA": "one_pixel",
    "Flickr30k-cap": "turned",
    "IconQA": "palette",
    "ImageNet-R": "grey",
    "OCRVQA": "tall",
    "TabMWP": "wide",
    "super-CLEVR": "sixteen_bit",
}
"""The odd kind of each dataset's first picture, as its file format can hold it."""


def write_authors_root(
    root: Path,
    *,
    num_train: int = 6,
    num_test: int = 3,
    num_clients: int = 0,
    datasets: Sequence[str] = tuple(FCIT),
) -> Path:
    """Write the root and return it.

    Args:
        root: a folder that need not exist.
        num_train: training records a dataset.
        num_test: test records a dataset.
        num_clients: with some, `partitioned_data/` holds both settings' files for that many clients, beta 1.0.
        datasets: keys of the catalog.
    """
    trained = {}
    for position, name in enumerate(datasets):
        spec = FCIT[name]
        first = 1000 * position  # no picture is written twice, whatever folders the datasets share
        trained[name] = [_train_record(root, name, first + index, index) for index in range(num_train)]
        tests = [_test_record(root, name, first + num_train + index, index) for index in range(num_test)]
        _dump(root / spec.train[0].path, trained[name])
        _dump(root / spec.test[0].path, tests)
        if spec.answer.references:
            _dump(root / spec.answer.references, _coco(tests))
    if num_clients:
        for setting, tasks in (
            ("Task-related/seq", [(name,) for name in PARTITION_ORDER]),
            ("Capability-related/cap", PARTITION_CAPABILITIES),
        ):
            for number, task in enumerate(tasks, 1):
                records = [record for name in task for record in trained[name]]
                for client in range(num_clients):
                    folder = root / "partitioned_data" / setting / "1.0" / f"Task{number}"
                    _dump(folder / f"client_{client}.json", records[client::num_clients])
    return root


def texts() -> Iterator[str]:
    """Questions and answers of many records, as they are in the files: what a vocabulary must be made from."""
    for name in FCIT:
        for number in range(200):
            for question, answer in _turns(name, random.Random(f"{name} {number}")):
                yield question
                yield answer


def odd_picture(kind: str) -> tuple[Image.Image, dict[str, Any]]:
    """A picture of an odd kind and the options it is saved with."""
    red, blue = (220, 40, 30), (20, 60, 200)
    if kind == "rgba":
        image = Image.new("RGBA", SIZE, (*red, 255))
        image.paste((*blue, 0), (0, 0, 32, 48))
        return image, {}
    if kind == "palette":
        image = Image.new("P", SIZE, 0)
        image.putpalette([*red, *blue])
        image.paste(1, (0, 0, 32, 48))
        return image, {"transparency": 1}
    if kind == "grey_alpha":
        image = Image.new("LA", SIZE, (90, 255))
        image.paste((0, 0), (0, 0, 32, 48))
        return image, {}
    if kind == "sixteen_bit":
        ramp = np.linspace(0, 65535, SIZE[0]).astype(np.uint16)
        return Image.fromarray(np.tile(ramp, (SIZE[1], 1))), {}
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # a camera held upright: what is stored has to be turned a quarter clockwise
        return Image.new("RGB", SIZE, red), {"exif": exif}
    plain: dict[str, Callable[[], Image.Image]] = {
        "cmyk": lambda: Image.new("CMYK", SIZE, (0, 200, 200, 20)),
        "grey": lambda: Image.new("L", SIZE, 140),
        "one_pixel": lambda: Image.new("RGB", (1, 1), red),
        "wide": lambda: Image.new("RGB", (900, 9), red),
        "tall": lambda: Image.new("RGB", (9, 900), blue),
    }
    return plain[kind](), {}


def _picture(root: Path, image: str, dataset: str, number: int, index: int) -> tuple[int, int]:
    """Write a record's picture and return its size as the camera held it."""
    path = root / "datasets" / image
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if index == 0 and dataset in ODD:
        picture, options = odd_picture(ODD[dataset])
    else:
        draw = random.Random(f"picture {number}")
        picture = Image.new("RGB", SIZE, tuple(draw.randrange(256) for _ in range(3)))
        corner = draw.randrange(32), draw.randrange(24)
        picture.paste(tuple(draw.randrange(256) for _ in range(3)), (*corner, corner[0] + 24, corner[1] + 20))
    picture.save(path, **options)
    return picture.size


def _train_record(root: Path, dataset: str, number: int, index: int) -> dict[str, Any]:
    image = IMAGES[dataset].format(split="train", number=number)
    _picture(root, image, dataset, number, index)
    conversation = []
    for position, (question, answer) in enumerate(_turns(dataset, random.Random(f"{dataset} {index}"))):
        conversation.append({"from": "human", "value": question if position else f"<image>\n{question}"})
        conversation.append({"from": "gpt", "value": answer})
    key = "question_id" if dataset in ("CLEVR-Math", "OCRVQA") else "id"
    return {key: number if dataset == "CLEVR-Math" else str(number), "image": image, "conversations": conversation}


def _test_record(root: Path, dataset: str, number: int, index: int) -> dict[str, Any]:
    image = IMAGES[dataset].format(split=HELD_OUT.get(dataset, "test"), number=number)
    if dataset == "Grounding":
        image = IMAGES[dataset].format(split="train", number=number)  # RefCOCO's pictures are all of train2014
    size = _picture(root, image, dataset, number, index)
    question, answer = _turns(dataset, random.Random(f"{dataset} test {index}"))[0]
    record: dict[str, Any] = {"question_id": str(number), "image": image, "text": question, "answer": answer}
    if dataset == "CLEVR-Math":
        record |= {"question_id": number, "answer": int(answer)}
    if dataset == "Grounding":
        record |= {"answer_bbox": answer, "size": list(size)}
    return record


def _coco(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    annotations = []
    for record in tests:
        image = int(record["question_id"])
        said = record["answer"].rstrip(".")
        for form in ("{}.", "{} today.", "There is {}.", "{} in the picture.", "A photo: {}."):
            annotations.append({"image_id": image, "id": len(annotations), "caption": form.format(said)})
    images = [{"id": int(r["question_id"]), "file_name": r["image"].rsplit("/", 1)[1]} for r in tests]
    return {"info": {}, "licenses": [], "type": "captions", "images": images, "annotations": annotations}


def _turns(dataset: str, draw: random.Random) -> list[tuple[str, str]]:
    """The question (several for Grounding) and answer of one record, in the dataset's own words."""
    colour = draw.choice(["red", "blue", "green", "brown"])
    thing = draw.choice(["dog", "bicycle", "woman", "train"])
    count = str(draw.randrange(10))
    letter = draw.choice("ABCD")
    if dataset == "ArxivQA":
        options = "\n".join(f"{mark}) The {way} of energy" for mark, way in zip("ABCD", _WAYS, strict=True))
        return [(f"What does the y-axis represent in the figure of the spectrum?\n{options}{LETTER}", letter)]
    if dataset == "Flickr30k-cap":
        question = "What is happening in the image? Please describe it briefly in one short sentence."
        return [(question, f"A {thing} with a {colour} bag crosses the street.")]
    if dataset == "ImageNet-R":
        return [(f"What is the object in the image?{SINGLE}", thing)]
    if dataset == "OCRVQA":
        return [(f"Who is the author of this book, as written on its cover?{SINGLE}", f"{thing.title()} Smith")]
    if dataset == "IconQA":
        return [(f"Which icon comes next in the row? Choices: circle, star, {thing}.{SINGLE}", "star")]
    if dataset == "CLEVR-Math":
        question = f"Subtract all {colour} metal balls. Subtract all tiny shiny blocks. How many objects are left?"
        return [(question + SINGLE, count)]
    if dataset == "FigureQA":
        return [(f"Does Dark {colour.title()} have the lowest low median?{SINGLE}", draw.choice(["yes", "no"]))]
    if dataset == "super-CLEVR":
        question = f"There is a {colour} school bus behind the small airliner; what number of jets have its size?"
        return [(question + SINGLE, count)]
    if dataset == "AOKVQA":
        question = f"Why might these people need an umbrella here?\nA. rain\nB. sun\nC. snow\nD. {thing}{LETTER}"
        return [(question, letter)]
    if dataset == "Grounding":
        asked = "Please provide the bounding box coordinate of the region this sentence describes: {}."
        return [
            (asked.format(f"the {what} on the {side}"), _box(draw))
            for what, side in ((thing, "left"), (colour, "right"), (f"{colour} {thing}", "left"))
        ]
    if dataset == "DVQA":
        question = "What is the label of the third bar from the bottom in the second group?"
        return [(question + SINGLE, thing)]
    assert dataset == "TabMWP", dataset
    question = f"A shop wrote down how many {thing} tickets it sold on each day. What is the mean of the numbers?"
    return [(question + SINGLE, f"{count}.5")]


_WAYS = ("loss", "density", "flow", "rate")


def _box(draw: random.Random) -> str:
    left, top = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
    return f"[{left:.2f},{top:.2f},{left + 0.3:.2f},{top + 0.4:.2f}]"


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
