"""Padding on the right for training, on the left for generation, and pixels as the Hugging Face processor has them."""

import numpy as np
import torch
from PIL import Image

from fcit_ray.data.loading.collate import Collator
from fcit_ray.models.load import load_processor

COLLATOR = Collator(pad_id=9, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), rescale=1 / 255)


def sample(*ids: int, value: int = 255) -> dict[str, np.ndarray]:
    return {
        "pixels": np.full((1, 2, 4, 3), value, dtype=np.uint8),
        "input_ids": np.array(ids),
        "labels": np.array([-100, *ids[1:]]),
        "feature": np.array([len(ids), value], dtype=np.float32),
    }


def test_training_batches_are_padded_on_the_right():
    batch = COLLATOR.train([sample(1, 2, 3), sample(4, 5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [-100, 5, -100]]
    assert batch["features"].tolist() == [[3, 255], [2, 255]]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def test_prompts_are_padded_on_the_left_and_have_no_labels():
    batch = COLLATOR.prompts([sample(1, 2, 3), sample(4, 5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "features"}


def test_pixels_become_normalised_planes():
    pixels = COLLATOR.train([sample(1)])["pixel_values"]
    # byte 255 is 1.0: (1 - 0.5) / 0.5 = 1, (1 - 0.25) / 0.25 = 3, (1 - 0) / 1 = 1
    assert pixels.shape == (1, 3, 2, 4)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))


def test_read_only_samples_collate():
    # Arrays out of a shared object store are read-only.
    one = sample(1, 2)
    for array in one.values():
        array.setflags(write=False)
    COLLATOR.train([one])["pixel_values"].add_(1)


def test_pixel_values_equal_the_processors_own(model):
    processor = load_processor(model)
    image = Image.effect_noise((8, 8), 120).convert("RGB")
    expected = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    got = Collator.from_processor(processor).train([sample(1) | {"pixels": np.array(image)[None]}])["pixel_values"]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_a_processor_without_padding_token_pads_with_the_end_of_sequence(model):
    processor = load_processor(model)
    processor.tokenizer.pad_token = None
    assert Collator.from_processor(processor).pad_id == processor.tokenizer.eos_token_id
