"""A dataset of our own invention, shirts with buttons to count, in every format that is read.

The same twelve training records and four questions each time: pictures differ by their number of buttons, some records
have two turns where the format can say it. `write(folder, kind)` gives the declaration.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

NUM_TRAIN, NUM_TEST = 12, 4
QUESTION = "How many buttons has the shirt?"
HF_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(number: int) -> bytes:
    image = Image.new("RGB", (24, 18), (200, 20 * (number % 12), 90))
    draw = ImageDraw.Draw(image)
    for button in range(number % 5):
        draw.ellipse((2 + 4 * button, 8, 5 + 4 * button, 11), fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rows(split: str) -> list[dict[str, Any]]:
    """What the dataset says, whatever the format: number of the picture, question, answer."""
    numbers = range(NUM_TRAIN) if split == "train" else range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)
    return [
        {"id": f"{split}-{number}", "number": number, "question": QUESTION, "answer": str(number % 5)}
        for number in numbers
    ]


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_TRAIN + NUM_TEST):
        (folder / f"{number}.png").write_bytes(picture(number))


def llava(split: str, row: dict[str, Any]) -> dict[str, Any]:
    image = f"{row['number']}.png"
    if split != "train":
        return {"question_id": row["id"], "image": image, "text": row["question"], "answer": row["answer"]}
    turns = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
    return {"id": row["id"], "image": image, "conversations": turns}


def chat(row: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "image", "path": f"{row['number']}.png"}, {"type": "text", "text": row["question"]}]
    answer = [{"type": "text", "text": row["answer"]}]
    return {
        "id": row["id"],
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


def hf_table(split: str) -> pa.Table:
    """As the datasets library keeps an Image feature."""
    found = rows(split)
    pictures = [{"bytes": picture(row["number"]), "path": f"{row['number']}.png"} for row in found]
    return pa.table(
        {
            "id": [row["id"] for row in found],
            "image": pa.array(pictures, HF_PICTURE),
            "question": [row["question"] for row in found],
            "answer": [row["answer"] for row in found],
        }
    )


def write_json(path: Path, items: Sequence[Any]) -> None:
    path.write_text(json.dumps(list(items)))


def write_lines(path: Path, items: Sequence[Any], bom: bool = False) -> None:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8-sig" if bom else "utf-8")


def write_csv(path: Path, items: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(items[0]))
        writer.writeheader()
        writer.writerows(items)


def write_saved(folder: Path, table: pa.Table, shards: int = 2) -> None:
    """The layout of the datasets library's `save_to_disk`: Arrow streams, and what lists them."""
    folder.mkdir(parents=True)
    size = -(-table.num_rows // shards)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        part = table.slice(number * size, size)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def _json(folder: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        write_json(folder / f"{split}.json", [llava(split, row) for row in rows(split)])
    return {"train": "train.json", "test": "test.json", "images": "pictures"}


def _lines(folder: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        write_lines(folder / f"{split}.jsonl", [llava(split, row) for row in rows(split)], bom=True)
    return {"train": "train.jsonl", "test": "test.jsonl", "images": "pictures"}


def _chat(folder: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        write_lines(folder / f"{split}.jsonl", [chat(row) for row in rows(split)])
    return {"train": "train.jsonl", "test": "test.jsonl", "images": "pictures"}


def _csv(folder: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        items = [
            {"name": r["id"], "file": f"{r['number']}.png", "ask": r["question"], "reply": r["answer"]}
            for r in rows(split)
        ]
        write_csv(folder / f"{split}.csv", items)
    keys = {"id": "name", "image": "file", "question": "ask", "answer": "reply"}
    return {"train": "train.csv", "test": "test.csv", "images": "pictures", "keys": keys}


def _parquet(folder: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        pq.write_table(hf_table(split), folder / f"{split}.parquet", row_group_size=5)
    return {"train": "train.parquet", "test": "test.parquet"}


def _hub(folder: Path) -> dict[str, Any]:
    (folder / "data").mkdir()
    for split in ("train", "test"):
        table = hf_table(split)
        for number, start in enumerate((0, table.num_rows // 2)):
            part = table.slice(start, table.num_rows // 2)
            pq.write_table(part, folder / "data" / f"{split}-{number:05}-of-00002.parquet")
    return {"train": ".", "test": "."}


def _saved(folder: Path) -> dict[str, Any]:
    (folder / "all").mkdir()
    (folder / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        write_saved(folder / "all" / split, hf_table(split))
    return {"train": "all", "test": "all"}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "json": _json,
    "lines": _lines,
    "chat": _chat,
    "csv": _csv,
    "parquet": _parquet,
    "hub": _hub,
    "saved": _saved,
}


def write(folder: Path, kind: str) -> dict[str, Any]:
    """Write the dataset in one of `WRITERS`' formats; its declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind not in ("parquet", "hub", "saved"):
        write_pictures(folder / "pictures")
    return WRITERS[kind](folder)
