"""One client's update on LLaVA-1.5's true shapes: samples a second, memory, and share of the device's matrix peak.

    python benchmarks/client_update.py --size 7b                  # a GPU of 80 GB
    python benchmarks/client_update.py --size tiny --steps 6      # anywhere

Random weights of LLaVA-1.5's architecture; a client of DISCO (eight subspaces of rank 8, the FFN, dropout 0.05, and
the projector) trains one subspace through `run_client`, with and without gradient checkpointing. Beside it, taking
turns with it in the same process on the same base: Hugging Face's Trainer on PEFT's stock LoRA of the same rank and
targets, the projector trained too, the same AdamW and schedule, also with and without. Both get the same batches.

    samples/s     of the median turn, all of a turn counted: optimizer, clipping, copies to and from the CPU
    peak memory   of the device over a turn (a CPU has no such counter)
    share         model operations a second (recomputing not counted) over a large matrix product's, measured here

A combination that runs out of memory is written down as that. See benchmarks/README.md for figures.
"""

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.table import Table
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from fcit_ray.cli.common import console
from fcit_ray.config.schema import Model, Train
from fcit_ray.federated.client import run_client
from fcit_ray.methods.disco import Disco
from fcit_ray.models.attention import choose_attention
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.values import recompute_layers
from fcit_ray.planning.memory import Load, memory
from fcit_ray.planning.shapes import read_shapes
from fcit_ray.planning.speed import step_flops
from fcit_ray.storage.durable import write_text
from fcit_ray.types import Assignment, Client, ClientJob, Setting

IMAGE, FIRST_WORD = 3, 5
TARGETS = ("gate_proj", "up_proj", "down_proj")
_LANGUAGE = {
    "tiny": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_TINY_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}


def build_base(size: str, dtype: torch.dtype, device: torch.device, attention: str | None) -> Any:
    """LLaVA-1.5 of random weights; the tiny one has pictures of 112 pixels, so 64 image tokens instead of 576."""
    tiny = size == "tiny"
    vision = CLIPVisionConfig(image_size=112 if tiny else 336, patch_size=14, **(_TINY_TOWER if tiny else _TOWER))
    words = 1000 if tiny else 32064
    text = LlamaConfig(vocab_size=words, max_position_embeddings=4096, pad_token_id=0, **_LANGUAGE[size])
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            base = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention or "sdpa")
    finally:
        torch.set_default_dtype(before)
    return base.requires_grad_(False).eval()


def make_batch(base: Any, size: int, tokens: int, answer: int) -> dict[str, torch.Tensor]:
    """One batch of equal records: a picture, a question, and an answer of `answer` tokens at the end."""
    side = base.config.vision_config.image_size
    image = (side // base.config.vision_config.patch_size) ** 2
    assert tokens > image + answer, (
        f"{tokens} tokens leave no room for {image} of the picture and {answer} of the answer"
    )
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(FIRST_WORD, base.config.text_config.vocab_size, (size, tokens), generator=draw)
    ids[:, 1 : 1 + image] = IMAGE
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    pixels = torch.randn(size, 3, side, side, generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}


def ours(base: Any, batch: dict[str, torch.Tensor], steps: int, config: Model, device: torch.device) -> Any:
    """A function that trains one client of DISCO, of `steps` batches; and what it trains."""
    bank = AdapterBank(base, config, 8, seed=0)
    bank.to(device)
    params = {name: value for name, value in bank.params().items() if ".s" not in name or ".s0." in name}
    setting = Setting(num_stages=1, num_rounds=1, num_clients=1, clients_per_round=1, seed=0)
    size = len(batch["input_ids"])
    job = ClientJob(
        stage=0, round=0, client=Client(0, 0, steps * size, torch.ones(1)), assignment=Assignment(train=(0,)),
        params=params, knowledge={}, memory={}, seed=0,
    )  # fmt: skip
    full = {**batch, "features": torch.zeros(size, 1)}

    def turn(checkpointing: bool) -> None:
        train = Train(batch_size=size, gradient_checkpointing=checkpointing)
        run_client(job, lambda size=None: iter([full] * steps), bank, Disco(), train, setting)

    return turn, bank


def stock(base: Any, batch: dict[str, torch.Tensor], steps: int, config: Model, device: torch.device) -> Any:
    """The same with Hugging Face's Trainer: LoRA of one subspace's rank, and the projector."""
    layers = [n for n, _ in base.named_modules() if "language_model" in n and n.endswith(TARGETS)]
    lora = LoraConfig(r=config.rank // 8, lora_alpha=2 * config.rank // 8, lora_dropout=0.05, target_modules=layers)
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "multi_modal_projector" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    size = len(batch["input_ids"])
    rows = [{key: value[i] for key, value in batch.items()} for i in range(size)] * steps

    def turn(checkpointing: bool) -> None:
        if not checkpointing:  # the Trainer only ever switches it on
            recompute_layers(base, enabled=False)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, per_device_train_batch_size=size, max_steps=steps, learning_rate=2e-4,
                lr_scheduler_type="cosine", warmup_steps=1, bf16=config.dtype == "bfloat16", report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
                gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
                use_cpu=device.type == "cpu", dataloader_pin_memory=False, optim="adamw_torch",
            )  # fmt: skip
            trainer = Trainer(model=model, args=arguments, train_dataset=rows)
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    return turn, model


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product, the best of ten after two."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(lambda: left @ right, device) for _ in range(12)][2:]
    return 2 * side**3 / min(seconds)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=_LANGUAGE, default="7b")
    parser.add_argument("--batch", type=int, default=None, help="records a step (default: 32; tiny: 4)")
    parser.add_argument("--tokens", type=int, default=None, help="of a record, image included (default: 640; tiny: 96)")
    parser.add_argument("--answer", type=int, default=16, help="answer tokens of a record")
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--turns", type=int, default=4, help="counted turns of each; one more comes before")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    tiny = args.size == "tiny"
    size, tokens = args.batch or (4 if tiny else 32), args.tokens or (96 if tiny else 640)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if not tiny and device.type == "cpu":
        parser.error(f"--size {args.size} needs a GPU, and none is seen; --size tiny runs anywhere")
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    kernel = choose_attention("auto", name, device.type == "cuda")
    config = Model(rank=64, alpha=128, dropout=0.05, dtype=name)  # type: ignore[arg-type]
    peak = matrix_peak(device, dtype)
    figures: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    turns: dict[tuple[str, bool], Callable[[bool], None]] = {}
    models: dict[str, Any] = {}
    for who, build in (("fcit_ray", ours), ("Trainer", stock)):
        base = build_base(args.size, dtype, device, kernel)
        turn, model = build(base, make_batch(base, size, tokens, args.answer), args.steps, config, device)
        for checkpointing in (False, True):
            turns[who, checkpointing] = turn
        models[who] = model
        model.to(torch.device("cpu"))  # two of them would not leave each the room of one
        if who == "fcit_ray":
            shapes = read_shapes(base, model.layers)
            trained = _trained(model)
            load = Load(
                batch=size, tokens=tokens, answer_tokens=args.answer + 1, trained=trained,
                held=sum(value.numel() for value in model.shapes().values()), packed=0, rank=8, dropout=True,
                half=name == "bfloat16", attention=kernel or "sdpa", padded=False, cuda=device.type == "cuda",
            )  # fmt: skip
            flops = step_flops(shapes, load)
            plan = {str(c): memory(shapes, replace(load, checkpointing=c)).training for c in (False, True)}
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in turns}
    peaks: dict[tuple[str, bool], int] = dict.fromkeys(turns, 0)
    failed: set[tuple[str, bool]] = set()
    for number in range(args.turns + 1):
        for key, turn in turns.items():
            if key in failed:
                continue
            for who, model in models.items():
                if who != key[0]:
                    model.to(torch.device("cpu"))
            models[key[0]].to(device)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                took = timed(lambda turn=turn, key=key: turn(key[1]), device)  # type: ignore[misc]
            except torch.cuda.OutOfMemoryError:
                failed.add(key)
                continue
            if number:
                seconds[key].append(took)
            if device.type == "cuda":
                peaks[key] = max(peaks[key], torch.cuda.max_memory_allocated())
    table = Table("", "checkpointing", "samples/s", "peak memory", "planned", "share of the peak")
    for who, checkpointing in turns:
        key = (who, checkpointing)
        rate = args.steps * size / statistics.median(seconds[key]) if seconds[key] else None
        share = rate / size * flops / peak if rate else None
        figures[f"{who}, {'with' if checkpointing else 'without'}"] = {
            "samples_per_s": rate, "seconds": seconds[key], "peak_bytes": peaks[key] or None, "share": share,
            "out_of_memory": key in failed,
        }  # fmt: skip
        table.add_row(
            who,
            "yes" if checkpointing else "no",
            f"{rate:.2f}" if rate else "out of memory",
            f"{peaks[key] / 1e9:.1f} GB" if peaks[key] else "-",
            f"{plan[str(checkpointing)] / 1e9:.2f} GB" if who == "fcit_ray" else "",
            f"{share:.1%}" if share else "-",
        )
    console.print(table)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, 1 process"
    console.print(
        f"{args.size}, batch {size} of {tokens} tokens, {name}, attention {kernel or 'sdpa'}, {where}; matrix peak "
        f"{peak / 1e12:.3g}e12/s, {flops / 1e12:.3g}e12 operations a step"
    )
    if args.out:
        facts = {
            "size": args.size, "batch": size, "tokens": tokens, "steps": args.steps, "dtype": name, "device": where,
            "attention": kernel or "sdpa", "peak": peak, "step_flops": flops, "torch": torch.__version__,
            "planned_bytes": plan, "figures": figures,
        }  # fmt: skip
        write_text(args.out, json.dumps(facts, indent=1) + "\n")


def _trained(bank: AdapterBank) -> int:
    kept = bank.activate(Assignment(train=(0,)), with_projector=True)
    return sum(parameter.numel() for parameter in kept.values())


if __name__ == "__main__":
    main()
