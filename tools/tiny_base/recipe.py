"""How the tiny base is pre-trained; by itself, so that its numbers can be read without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the base is pre-trained; saved with its scores.

    Attributes:
        seed: of weights and lessons; benchmark pictures come from other seeds altogether.
        vision_steps: steps of the first part, on patch labels.
        vision_batch: pictures a step there.
        vision_lr: peak learning rate there.
        steps: steps of the second part, on questions.
        decay_frac: share of the steps, at the end, over which the learning rate falls to zero; level before, so
            that a run can be cut short or drawn out from any checkpoint.
        batch: pictures a step there.
        num_questions: at most so many questions are packed with a picture, beside one recital.
        lr: peak learning rate there.
        vision_lr_frac: the vision tower's share of `lr`.
        embedding_lr_frac: the input embeddings' share of `lr`; small, as the identity tokens live on their rows
            being nearly orthogonal.
        weight_decay: of matrices.
        bfloat16: matrix products of the second part in bfloat16 (twice as fast where the CPU has it); weights and
            optimizer stay in float32.
        save_every: steps between checkpoints; a multiple of eight, so that a resumed run draws the same batches.
        num_held_out: pictures the scores are taken on at the end.
    """

    seed: int = 0
    vision_steps: int = 3000
    vision_batch: int = 64
    vision_lr: float = 2e-3
    steps: int = 6000
    decay_frac: float = 0.25
    batch: int = 32
    num_questions: int = 2
    lr: float = 2e-3
    vision_lr_frac: float = 0.1
    embedding_lr_frac: float = 0.1
    weight_decay: float = 0.01
    bfloat16: bool = True
    save_every: int = 320
    num_held_out: int = 1500
