"""A step in micro-batches is the step of the whole batch: gradients, penalties, losses, and what has no answer."""

from dataclasses import dataclass, field

import pytest
import torch
from small import COLLATOR, MODEL, TRAIN, client, random_params, sample, small_bank, small_setting

from fcit_ray.data.loading.batches import epoch_order
from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.federated.client import answer_shares, run_client
from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.methods.finetune import Finetune
from fcit_ray.types import Assignment, ClientJob

WITHOUT_DROPOUT = MODEL.model_copy(update={"dropout": 0.0})
# Gradients are looked at as they are, not scaled to a norm.
STEP = TRAIN.model_copy(update={"batch_size": 6, "max_grad_norm": 1e9})


def records(answers, pictures=()):
    """Records with so many answer tokens each, of unequal lengths; and with so many pictures, by default one."""
    pictures = pictures or [1] * len(answers)
    made = [sample(index, 4 + index % 3, pictures[index]) for index in range(len(answers))]
    for record, count in zip(made, answers, strict=True):
        record["labels"][:] = -100
        if count:
            record["labels"][-count:] = record["input_ids"][-count:]
    return made


@dataclass(frozen=True, kw_only=True)
class Looking(LocalRule):
    """A penalty on the weights themselves, and every step's gradients kept."""

    gradients: list = field(default_factory=list)

    penalises: bool = True

    def penalty(self, run, extra):
        if not self.penalises:
            return 0.0
        return sum((parameter - 0.5).square().sum() for parameter in run.trained.values())

    def after_step(self, run, extra, rates):
        self.gradients.append({name: parameter.grad.clone() for name, parameter in run.trained.items()})


def train(answers, micro_batch_size, config=WITHOUT_DROPOUT, settings=STEP, pictures=(), penalises=True):
    """Gradients of every step, and the update."""
    bank = small_bank(1, config=config)
    job = ClientJob(
        stage=0,
        round=0,
        client=client(0, [1, 0], len(answers)),
        assignment=Assignment((0,)),
        params=random_params(bank.params()),
        knowledge={},
        memory={},
        seed=3,
    )
    settings = settings.model_copy(update={"micro_batch_size": micro_batch_size})
    batches = training_batches(
        LocalShard(records(answers, pictures)),
        COLLATOR,
        settings.batch_size,
        job.seed,
        settings.epochs,
        micro_batch_size,
    )
    rule = Looking(penalises=penalises)
    update = run_client(job, batches, bank, Finetune(), settings, small_setting(), rule)
    return rule.gradients, update


# Answers of unequal lengths, so that the mean of the micro-batches' means is another number.
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_gradients_and_loss_are_those_of_the_whole_batch(size):
    answers = [1, 3, 2, 1, 3, 3]
    (whole,), expected = train(answers, None)
    (pieces,), update = train(answers, size)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-4, atol=1e-6)
    assert update.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)
    assert update.metrics["steps"] == expected.metrics["steps"] == 1


# Of the batch's records in their order some micro-batches have no picture at all, and give the projector no gradient.
@pytest.mark.parametrize("size", [1, 2, 4])
def test_records_without_a_picture_and_with_two_are_of_the_same_step(size):
    answers, pictures = [1, 3, 2, 1, 3, 3], [0, 1, 0, 2, 0, 0]
    (whole,), expected = train(answers, None, pictures=pictures, penalises=False)
    (pieces,), update = train(answers, size, pictures=pictures, penalises=False)
    projector = [name for name in whole if "projector" in name]
    assert all(whole[name].abs().max() > 1e-4 for name in projector)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-4, atol=1e-6)
    assert update.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)


def test_a_step_without_any_picture_goes_on_with_the_projectors_moments():
    # One record a step, the first with a picture. AdamW moves by lr * m / sqrt(v), both corrected for their start:
    # after a gradient g that is g / |g|; after another, zero, m = 0.09 g / 0.19 and v = 0.000999 g^2 / 0.001999, so
    # 0.670 of that, times the schedule's 0.5 of the second of two steps: 1.335 in all. Passed over, it would stay at 1.
    settings = STEP.model_copy(update={"batch_size": 1})
    pictures = [0, 0]
    pictures[epoch_order(2, 3, 0)[0]] = 1
    (first, second), update = train([2, 2], None, settings=settings, pictures=pictures, penalises=False)
    for name in [name for name in first if "projector" in name]:
        assert not second[name].any()
        reached = first[name].abs() > 1e-4  # far above AdamW's epsilon
        assert reached.any()
        moved = update.delta[name][reached].abs() / STEP.projector_lr
        torch.testing.assert_close(moved, torch.full_like(moved, 1.335), rtol=2e-3, atol=0)


def test_a_micro_batch_weighs_as_much_as_it_has_answer_tokens():
    first, second = COLLATOR.train(records([3])), COLLATOR.train(records([0, 1]))
    assert answer_shares([first, second]) == [0.75, 0.25]
    # Nobody predicts a record's first token, so it counts for nothing.
    first["labels"][0, 0] = first["input_ids"][0, 0]
    assert answer_shares([first, second]) == [0.75, 0.25]
    assert answer_shares([second]) == [1.0]
    none = COLLATOR.train(records([0]))
    assert answer_shares([none, none]) == [0.5, 0.5]


def test_a_micro_batch_without_answers_does_not_spoil_the_step():
    # Alone, the mean over its no tokens would not be a number.
    answers = [2, 0, 3, 0, 1, 0]
    (whole,), _ = train(answers, None)
    (pieces,), _ = train(answers, 1)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_step_without_any_answer_is_still_noticed():
    with pytest.raises(FloatingPointError, match="loss is nan"):
        train([0, 0], 1)


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit():
    # With dropout: the draws are the same too.
    answers, several = [1, 3, 2, 1, 3], TRAIN.model_copy(update={"batch_size": 2, "epochs": 2})
    _, plain = train(answers, None, MODEL, several)
    for size in (2, 64):
        _, update = train(answers, size, MODEL, several)
        assert all(torch.equal(update.delta[name], value) for name, value in plain.delta.items())
    assert plain.metrics["steps"] == 6


def test_every_epoch_keeps_its_short_step():
    answers, several = [1, 3, 2, 1, 3], STEP.model_copy(update={"batch_size": 4, "epochs": 2})
    gradients, update = train(answers, 3, settings=several)
    assert update.metrics["steps"] == len(gradients) == 4
    expected, _ = train(answers, None, settings=several)
    for step, whole in zip(gradients, expected, strict=True):
        for name, gradient in whole.items():
            # AdamW's first steps take signs, so rounding grows from step to step.
            torch.testing.assert_close(step[name], gradient, rtol=1e-2, atol=1e-3)
