"""Loads the adapter beside this file with its gate: needs torch, transformers, peft, safetensors and Pillow.

    from load_gated import Gated
    gated = Gated()                                       # or Gated(base=..., device_map=...): for from_pretrained
    gated.answer(["ball.png"], ["What colour is the ball?"])      # as the run answered
    gated.answer([None, ["a.png", "b.png"]], ["Who are you?", "Which is darker?"])    # no picture, and two
    gated.weigh(["What colour is the ball?"])                     # (questions, adapters); holds for gated.model
    gated.model.generate(...)                                     # ... until the next call

Legend: B questions, L tokens, D features, U remembered vectors, K adapters.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize, one_hot, pad
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

HERE = Path(__file__).parent
MARK = "<image>"


class Gated:
    """The base with the packed adapter, whose parts are weighed as `gate.json` says."""

    def __init__(self, folder: Path | str = HERE, base: str | None = None, **options: Any):
        folder = Path(folder)
        self.said = said = json.loads((folder / "gate.json").read_text())
        config = json.loads((folder / "adapter_config.json").read_text())
        if said["refused"]:
            raise ValueError(said["refused"])
        if said["quantize"] != "none" and "quantization_config" not in options:
            raise ValueError("trained beside a base in four bits: give quantization_config=BitsAndBytesConfig(...)")
        base = base or str(folder / "base" if (folder / "base").is_dir() else config["base_model_name_or_path"])
        options = {"dtype": getattr(torch, said["dtype"]), **options}
        frozen: Any = AutoModelForImageTextToText.from_pretrained(base, **options)
        frozen.generation_config = GenerationConfig()  # greedy, whatever the base generates with
        for name in config["modules_to_save"] or ():
            frozen.get_submodule(name).float()  # the projector was trained in float32
        self.processor = processor_of(base)
        self.model: Any = PeftModel.from_pretrained(frozen, folder).eval()
        self.tensors = load_file(folder / "gate.safetensors")
        self.table = embeddings(base) if said["kind"] == "similarity" else None
        self.weights: torch.Tensor | None = None
        for path, module in self.model.named_modules():
            layer = path.removeprefix("base_model.model.").removesuffix(".lora_A.default")
            if path.endswith(".lora_A.default") and (said["layers"] is None or layer in said["layers"]):
                module.register_forward_hook(partial(self._scale, layer))

    def _scale(self, layer: str, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self.said["kind"] == "router":  # of every token
            router = self.tensors[layer].to(output.device)
            weights = torch.softmax(linear(inputs[0].float(), router).float(), dim=-1)  # (B, L, K)
        elif self.weights is None:
            raise RuntimeError("no question was weighed yet: call weigh(questions) before the model")
        else:
            weights = self.weights[:, None].to(output.device)  # (B, 1, K)
        return output * weights.repeat_interleave(self.said["rank"], dim=-1)

    def weigh(self, questions: list[str]) -> torch.Tensor | None:
        """Weights of the adapters for each question, (B, K); None where every token is weighed by itself."""
        if self.table is None:
            return None
        tokenizer, rows = self.processor.tokenizer, []
        for question in questions:
            text = question.replace(MARK, "").strip()
            if not text or any(mark in text for mark in tokenizer.all_special_tokens):
                raise ValueError(f"{question!r}: empty, or spells one of {tokenizer.all_special_tokens}")
            rows.append(self.table[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0))
        remembered = self.tensors["remembered"]  # (U, D)
        weights = normalize(torch.stack(rows), dim=1) @ normalize(remembered, dim=1).T  # (B, U)
        if self.said["activation"] == "softmax":
            weights = torch.softmax(weights.double() / self.said["temperature"], dim=1).float()
        elif self.said["activation"] == "argmax":
            weights = one_hot(weights.argmax(1), len(remembered)).float()
        self.weights = pad(weights, (0, self.said["num_adapters"] - len(remembered)))
        return self.weights

    @torch.inference_mode()
    def answer(self, images: list[Any], questions: list[str]) -> list[str]:
        """Greedy answers to questions, each about a picture (a path, or a Pillow image), None, or a list of several."""
        several = [list(one) if isinstance(one, list | tuple) else [] if one is None else [one] for one in images]
        answers = [""] * len(questions)
        for group in ([n for n, one in enumerate(several) if bool(one) == has] for has in (True, False)):
            if group:  # a batch has pictures or has none: no two processors take a mixed one alike
                given = self._answer([several[n] for n in group], [questions[n] for n in group])
                for number, text in zip(group, given, strict=True):
                    answers[number] = text
        return answers

    def _answer(self, images: list[list[Any]], questions: list[str]) -> list[str]:
        said, tokenizer = self.said, self.processor.tokenizer
        pictures = [[picture(image, said["square"]) for image in several] for several in images]
        texts = [self._prompt(marked(q, len(some))) for q, some in zip(questions, pictures, strict=True)]
        self.weigh(questions)
        options = {"padding": True, "padding_side": "left", "add_special_tokens": said["add_special_tokens"]}
        given = {"images": pictures} if pictures[0] else {}
        inputs = self.processor(text=texts, return_tensors="pt", **given, **options).to(self.model.device)
        ends = {"eos_token_id": said["stop"], "pad_token_id": said["pad"], "max_new_tokens": said["max_new_tokens"]}
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=said["dtype"] == "bfloat16"):
            tokens = self.model.generate(**inputs, do_sample=False, **ends)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _prompt(self, question: str) -> str:
        if self.said["prompt"]:
            before, behind = self.said["prompt"]
            return str(before.replace(f"{MARK}\n", "") + question + behind)
        first, *rest = question.strip().split(MARK)
        content = [{"type": "text", "text": first}] if first.strip() or not rest else []
        for text in rest:
            content.append({"type": "image"})
            content += [{"type": "text", "text": text.removeprefix("\n")}] if text.strip() else []
        turns = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def marked(question: str, count: int) -> str:
    """The question with a mark for each of its pictures: one comes first, of several the marks stay where they are."""
    marks = question.count(MARK)
    if marks not in (0, count):
        raise ValueError(f"{question!r}: {marks} {MARK} for {count} pictures; expected as many, or none")
    if count == 0:
        return question
    if count > 1 and marks:
        return question.strip()
    return f"{MARK}\n" * count + question.replace(MARK, "").strip()


def embeddings(base: str) -> torch.Tensor:
    """The base's token embeddings as they are on the disk, each of length one, (vocabulary, D)."""
    folder = Path(base) if Path(base).is_dir() else Path(snapshot_download(base, allow_patterns=["*.safetensors"]))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                if name.endswith("embed_tokens.weight"):
                    return normalize(tensors.get_tensor(name).float(), dim=1)
    raise FileNotFoundError(f"{folder}: no embed_tokens.weight in its safetensors files")


def processor_of(base: str) -> Any:
    """Without its part for videos, which needs torchvision: nobody asks about one."""
    kind: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(base)), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(base, backend="pil")

    class Pictures(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_args_and_dict(args, {**processor_dict, "video_processor": None}, **kwargs)

    return Pictures.from_pretrained(base, backend="pil")


def picture(image: Any, square: list[int] | None) -> Image.Image:
    """Upright RGB, transparency on white; centred on a square of this colour, if one is given."""
    image = ImageOps.exif_transpose(Image.open(image) if isinstance(image, str | Path) else image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    image = image.convert("RGB")
    if square is None or image.width == image.height:
        return image
    side = max(image.size)
    framed = Image.new("RGB", (side, side), tuple(square))
    framed.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return framed
