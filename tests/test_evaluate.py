"""Answering through the gate: every question gets its own answer and its own weights, in the order asked."""

import pytest
import torch
from small import COLLATOR, END, IMAGE, PAD, random_params, sample, small_bank

from fcit_ray.config.schema import Evaluation
from fcit_ray.federated.answering import Effort, answer
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune


class Numbers:
    """A tokenizer that writes token 7 as ` 7 `."""

    eos_token_id = END
    pad_token_id = PAD

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return [" ".join(f" {token} " for token in row.tolist() if token > IMAGE) for row in rows]


SAMPLES = [sample(index, 4) for index in range(5)]  # of one length: padding plays no part


@pytest.fixture(scope="module")
def bank():
    bank = small_bank(2)
    bank.pack(random_params(bank.params()))
    return bank


def asked(bank, method, knowledge, samples=SAMPLES, batch_size=2):
    evaluation = Evaluation(batch_size=batch_size, max_new_tokens=6)
    return answer(samples, bank, method, knowledge, COLLATOR, Numbers(), evaluation)


KNOWLEDGE = {"tokens": torch.eye(2, 4), "mass": torch.ones(2)}


def test_every_question_is_answered_in_order_with_its_own_gate(bank):
    method = Disco(num_subspaces=2, temperature=0.5)
    answers = asked(bank, method, KNOWLEDGE)
    assert len(answers) == 5
    assert len({text for text, _ in answers}) > 1
    for one, (text, gate) in zip(SAMPLES, answers, strict=True):
        assert text == text.strip()
        expected = method.gate(KNOWLEDGE, torch.from_numpy(one["feature"])[None], 2)[0].tolist()
        assert gate == pytest.approx(expected, abs=1e-6)
    alone = [asked(bank, method, KNOWLEDGE, [one])[0][0] for one in SAMPLES]
    assert [text for text, _ in answers] == alone


def test_the_gate_decides_the_answer(bank):
    # Towards temperature 0 only the nearest subspace answers: the two orders of the tokens swap the subspaces.
    cold = Disco(num_subspaces=2, temperature=1e-6)
    swapped = {**KNOWLEDGE, "tokens": KNOWLEDGE["tokens"].flip(0)}
    one, other = (asked(bank, cold, knowledge) for knowledge in (KNOWLEDGE, swapped))
    assert [gate for _, gate in one] == [gate[::-1] for _, gate in other]
    assert [text for text, _ in one] != [text for text, _ in other]


def test_a_method_without_a_gate_has_none(bank):
    answers = asked(bank, Finetune(), {})
    assert [gate for _, gate in answers] == [()] * 5


class Ending:
    """In the place of a bank: generates what it is told."""

    num_adapters = 0

    def __init__(self, rows):
        self.rows = iter(rows)

    def generate(self, batch, gate, most, prompts, **tokens):
        return torch.tensor(next(self.rows))


def test_tokens_and_padding_are_counted():
    # The image is four tokens, the start one: prompts of 9, 7 and 6, in batches of two.
    samples = [sample(0, 4), sample(1, 2), sample(2, 1)]
    rows = [[[7, 8, END, PAD], [9, 9, 9, 9]], [[END, PAD, PAD, PAD]]]
    effort = Effort()
    evaluation = Evaluation(batch_size=2, max_new_tokens=4)
    answer(samples, Ending(rows), Finetune(), {}, COLLATOR, Numbers(), evaluation, [END, 3], effort)
    assert (effort.tokens, effort.positions, effort.padding) == (3 + 4 + 1, 9 + 9 + 6, 2)
    assert effort + Effort(1.5, 1, 2, 3) == Effort(1.5, 9, 26, 5)


def test_no_question_no_answer(bank):
    assert asked(bank, Finetune(), {}, []) == []
