"""A whole run at LLaVA-1.5-7B's true shapes on a CPU: peak memory of its processes beside what `--plan` foresees.

    python benchmarks/true_size.py --work /tmp/true_size                # 14 GB of disk, 20 GB of memory, an hour or two
    python benchmarks/true_size.py --work /tmp/true_size --size tiny    # a minute: whether it works
    python benchmarks/true_size.py --work /tmp/true_size --size 2-layers    # the 7B's widths, a few minutes, 2 GB

Random bfloat16 weights of the published sizes, written as safetensors once (and kept in `--work`), with a tokenizer of
bytes; two clients of two records each, of the miniature, with pictures of 336 pixels, one round of DISCO, and one
question, through `pipelines/run.py` as a user would start it. The memory of every process that it starts is looked at
four times a second.

    peak       resident memory at its highest: what the process holds itself, and files and shared memory mapped by it
    own        at its highest what it holds itself. The frozen weights are none of it: they stay mapped from their
               files, shared by the workers of a node, and the system drops and reads them again where memory is short
    --plan     what one worker takes by the plan, weights and all; Python and its libraries, 0.6 GB, are none of it
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizerFast, LlavaConfig, LlavaForConditionalGeneration

from fcit_ray.cli.common import console
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.experiment.loading import load_config
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models.conversion.llava_processor import load_tokenizer, write_processor
from fcit_ray.planning.report import make_plan
from fcit_ray.planning.speed import this_cpu
from fcit_ray.runtime.data import sample_encoder

ROOT = Path(__file__).resolve().parents[1]
WORDS = 32000  # Vicuna's vocabulary; `<image>` and `<pad>` come behind it
SPACE = "\u2581"
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "tiny": (
        {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4},
        {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
    ),
    "2-layers": (
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2, "num_attention_heads": 32},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
    "7b": (
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
}
_FILE_BYTES = 2**30
_INDEX = "model.safetensors.index.json"
_LOOK_S = 0.25
_MARK = "FCIT_RAY_TRUE_SIZE"  # in the environment of all that the run starts


def write_model(folder: Path, size: str) -> Path:
    """A LLaVA-1.5 of random weights, a tensor after the other, so that a file at a time is in memory."""
    if (folder / _INDEX).is_file():  # written last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    language, tower = SIZES[size]
    vision = CLIPVisionConfig(image_size=336, patch_size=14, projection_dim=768, **tower)
    text = LlamaConfig(vocab_size=WORDS + 64, max_position_embeddings=4096, pad_token_id=WORDS + 1, **language)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS, pad_token_id=WORDS + 1,
                         vision_feature_layer=-2, vision_feature_select_strategy="default", tie_word_embeddings=False,
                         dtype="bfloat16", architectures=["LlavaForConditionalGeneration"])  # fmt: skip
    config.save_pretrained(folder)
    write_tokenizer(folder / "source")
    write_processor(folder, load_tokenizer(folder / "source", WORDS), vision, None)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlavaForConditionalGeneration(config).state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    part: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    total = number = 0
    for position, (name, shape) in enumerate(shapes.items(), start=1):
        value = torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.empty(shape)
        if not ("norm" in name and name.endswith("weight")):
            value = value.normal_(std=0.02, generator=draw) if value.dim() > 1 else value.zero_()
        part[name] = value.to(torch.bfloat16)
        if position == len(shapes) or sum(kept.nbytes for kept in part.values()) > _FILE_BYTES:
            number += 1
            file = f"model-{number:05d}.safetensors"
            save_file(part, folder / file, {"format": "pt"})
            where |= dict.fromkeys(part, file)
            total += sum(kept.nbytes for kept in part.values())
            part = {}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / _INDEX).write_text(json.dumps(index))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A Llama tokenizer of Vicuna's size to which every byte is a token."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    pieces += [f"<filler-{n}>" for n in range(WORDS - len(pieces))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    LlamaTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                       legacy=False).save_pretrained(folder)  # fmt: skip


def write_data(root: Path) -> Path:
    """Four records to train on, one to ask, as the authors lay their data out."""
    if not root.is_dir():
        write_miniature(root, num_train=4, num_validation=1, num_test=1)
    return root


def overrides(work: Path, size: str) -> list[str]:
    """What the run differs in from the paper's configuration: sizes of the federation, and the machine."""
    return [
        f"benchmark.root={work / 'data'}", f"model.path={work / f'llava-{size}'}", "benchmark.tasks=[IconQA]",
        "benchmark.num_clients=2", "benchmark.clients_per_round=2", "benchmark.num_rounds=1", "benchmark.min_samples=2",
        "benchmark.beta=100", "benchmark.selection=seeded", "model.identity_encoder=base", "train.batch_size=2",
        "train.micro_batch_size=1", "evaluation.max_new_tokens=4", "evaluation.batch_size=1", "runtime.gpu=false",
        "runtime.num_workers=1", "runtime.cpus_per_worker=0.5",
    ]  # fmt: skip


class Watch:
    """Looks at the memory of every process in whose environment a mark stands, and keeps the peaks.

    Args:
        mark: the entry.

    Attributes:
        peaks: bytes by kind of process: all that is resident, and what of it is the process's own; each at its peak.
    """

    def __init__(self, mark: str):
        self._mark = mark.encode()
        self.peaks: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            for kind, resident, own in self._processes():
                peak, own_peak = self.peaks.get(kind, (0, 0))
                self.peaks[kind] = (max(peak, resident), max(own_peak, own))

    def _processes(self) -> Iterator[tuple[str, int, int]]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark not in (folder / "environ").read_bytes():
                    continue
                title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
                sizes = {name: int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem")}
            except (OSError, KeyError):
                continue  # gone meanwhile, or a kernel's thread
            yield kind_of(title), sum(sizes.values()), sizes["RssAnon"]


def kind_of(title: str) -> str:
    """What a process is, by the title that Ray gives it."""
    if not title.startswith("ray::"):
        return "Ray's own" if "/ray/" in title or "ray" in Path(title).name else "the command"
    if "Driver" in title:
        return "driver"
    if "Train" in title and "Worker" in title:
        return "worker"
    return "data task" if "Map" in title or "Encode" in title else "other actors and tasks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the model, the data and the run")
    parser.add_argument("--size", choices=SIZES, default="7b")
    options = parser.parse_args()
    work = options.work.resolve()
    write_data(work / "data")
    console.print(f"writing the model to {work} ...")
    write_model(work / f"llava-{options.size}", options.size)
    mark = uuid.uuid4().hex
    command = [sys.executable, str(ROOT / "pipelines" / "run.py"), "task_homogeneous", "disco",
               *overrides(work, options.size), "--out", str(work / f"run-{options.size}"), "--overwrite"]  # fmt: skip
    console.print(" ".join(command), markup=False)
    began = time.monotonic()
    with Watch(f"{_MARK}={mark}") as watch:
        code = subprocess.run(command, env={**os.environ, _MARK: mark, "RAY_ADDRESS": "local"}).returncode
    seconds = time.monotonic() - began
    if code:
        raise SystemExit(f"the run ended with {code}")
    results = json.loads((work / f"run-{options.size}" / "results.json").read_text())
    console.print(table(watch.peaks, planned(work, options.size)))
    console.print(f"{seconds:.0f} s; adapters {results['adapters_sha256'][:12]}; last {results['last']}")


def planned(work: Path, size: str) -> dict[str, Any]:
    """Bytes of a worker by the plan."""
    config = load_config("task_homogeneous", "disco", overrides=overrides(work, size))
    experiment = open_experiment(config, for_plan=True)
    plan = make_plan(config, this_cpu(config.model.dtype), 1, experiment, sample_encoder(experiment))
    return {"training": plan.memory.training, "answering": plan.memory.answering, "total": plan.memory.total}


def table(peaks: dict[str, tuple[int, int]], plan: dict[str, Any]) -> Table:
    """Peaks by kind of process, 10^9 bytes."""
    shown = Table("process", "peak, GB", "own, GB", "--plan, GB")
    for kind, (peak, own) in sorted(peaks.items(), key=lambda item: -item[1][0]):
        shown.add_row(
            kind, f"{peak / 1e9:.2f}", f"{own / 1e9:.2f}", f"{plan['total'] / 1e9:.2f}" if kind == "worker" else ""
        )
    return shown


if __name__ == "__main__":
    main()
