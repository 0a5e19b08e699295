"""The clients of a run by stock PEFT in one plain process: no Ray, nothing of fcit_ray; a side of end_to_end.py.

    python benchmarks/plain_clients.py WORK

WORK is written by end_to_end.py: every client of every round as collated batches, in order, and the questions that
follow a round. One adapter of a subspace's rank is trained client after client and averaged by records.
"""

import sys
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForImageTextToText


def load(work: dict[str, Any]) -> Any:
    """The base with one adapter."""
    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(work["model"], local_files_only=True)
    targets, rank = work["targets"], work["rank"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, bias="none")
    return get_peft_model(base, config)


def train(model: Any, start: dict[str, torch.Tensor], client: dict[str, Any], lr: float) -> dict[str, torch.Tensor]:
    """One client's update, from these values."""
    set_peft_model_state_dict(model, start)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for batch in client["batches"]:
        optimizer.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in get_peft_model_state_dict(model).items()}


def mean(updates: list[dict[str, torch.Tensor]], counts: list[int]) -> dict[str, torch.Tensor]:
    total = sum(counts)
    return {
        name: sum(update[name] * (count / total) for update, count in zip(updates, counts, strict=True))
        for name in updates[0]
    }


@torch.inference_mode()
def answer(model: Any, prompts: list[dict[str, torch.Tensor]], max_new_tokens: int) -> int:
    """Greedy answers to batches of questions; how many there are."""
    model.eval()
    return sum(len(model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)) for batch in prompts)


def main(file: str) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    work = torch.load(file, weights_only=True)
    model = load(work)
    values = get_peft_model_state_dict(model)
    training = answering = 0.0
    for number, clients in enumerate(work["rounds"]):
        at = time.perf_counter()
        values = mean(
            [train(model, values, client, work["lr"]) for client in clients],
            [client["num_examples"] for client in clients],
        )
        training, at = training + time.perf_counter() - at, time.perf_counter()
        if prompts := work["questions"].get(number):
            set_peft_model_state_dict(model, values)
            answer(model, prompts, work["max_new_tokens"])
            answering += time.perf_counter() - at
    print(f"{training:.2f} {answering:.2f} {time.perf_counter() - began:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
