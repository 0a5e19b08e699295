"""Draws data to try things with: two JSON files and a folder of pictures, as one might have them.

python examples/own_data/draw.py signs
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220), "yellow": (235, 210, 50)}
SHAPES = ("circle", "square", "triangle")
QUESTIONS = {
    "colours": "What colour is the sign? Answer with one word.",
    "shapes": "What shape does the sign have? Answer with one word.",
}


def draw(colour: str, shape: str, place: random.Random) -> Image.Image:
    """A sign somewhere on a white picture of 64 x 64 pixels."""
    picture = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(picture)
    x, y = place.randint(2, 22), place.randint(2, 22)
    if shape == "circle":
        pen.ellipse((x, y, x + 40, y + 40), fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle((x, y, x + 40, y + 40), fill=COLOURS[colour])
    else:
        pen.polygon([(x + 20, y), (x + 40, y + 40), (x, y + 40)], fill=COLOURS[colour])
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw two JSON files of records and a folder of pictures.")
    parser.add_argument("folder", type=Path, help="to write into")
    parser.add_argument("--num", type=int, default=120, help="records a file")
    arguments = parser.parse_args()
    (arguments.folder / "pictures").mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    for task, question in QUESTIONS.items():
        records = []
        for number in range(arguments.num):
            colour, shape = chance.choice(list(COLOURS)), chance.choice(SHAPES)
            name = f"{task}-{number:03}.png"
            draw(colour, shape, chance).save(arguments.folder / "pictures" / name)
            answer = colour if task == "colours" else shape
            records.append({"picture": name, "question": question, "answer": answer})
        (arguments.folder / f"{task}.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
        print(f"{arguments.folder / task}.json: {len(records)} records")


if __name__ == "__main__":
    main()
