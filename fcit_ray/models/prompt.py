"""Conversation text as LLaVA-1.5 trains on it, with the character spans of the answers.

The `vicuna_v1` template is LLaVA-1.5's (Liu et al., CVPR 2024, arXiv 2310.03744), which FCIT trains and answers with: a
system sentence about a curious *user* (the code's `llava_v1`, another template, has a curious human), then
`USER: <question> ASSISTANT: <answer></s>` for every turn, the next turn's `USER:` right behind `</s>`. `bare` is the
same without the system sentence, for models too small to spend fifty tokens on it.

As in LLaVA's code (`preprocess_multimodal`, `preprocess_v1`), the image comes first in its question, whose blank ends
go; an answer's span begins with the space after `ASSISTANT:`, since Llama's tokens take it along. Two things differ on
purpose: the image belongs to the first question even where a record names it later or not at all (LLaVA would train
such a record without its picture), and blank ends of answers go when files are read, so that the model is taught what
the scorers compare.

That is of a record with one picture. One without any has no mark, and its text is the code's. Of several pictures each
has its mark, which stays where it stands; the code of LLaVA-1.5 knows no such records (it opens one picture a record,
and makes one mark of all that stand in a question).
"""

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE_TOKEN = "<image>"
SYSTEM = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    "bare": "",
}


@dataclass(frozen=True)
class Turn:
    """One question and, in training records, its answer (None asks the model for it)."""

    question: str
    answer: str | None = None


def instruction_text(turns: Sequence[Turn]) -> str:
    """The first question, without system sentence, role or `<image>`: what an identity token is computed from.

    The released code of FCIT takes what stands between the picture and the first `ASSISTANT`, so in a conversation of
    several turns (Grounding's) the later questions do not count.
    """
    return turns[0].question.replace(IMAGE_TOKEN, "").strip()


def marked(turns: Sequence[Turn], num_images: int) -> list[str]:
    """The questions with a mark for each picture, where it is read.

    One picture comes first in the first question, whose blank ends go. Of several the marks stay where they stand, in
    any question; where there are none, all come first in the first question, a line each.

    Args:
        turns: the turns in order, whose marks were counted when they were read.
        num_images: pictures of the record.
    """
    questions = [turn.question for turn in turns]
    if num_images == 0:
        return questions
    if num_images == 1:
        # The first question, and the one that named it; others stay as they are.
        questions[1:] = [q.replace(IMAGE_TOKEN, "").strip() if IMAGE_TOKEN in q else q for q in questions[1:]]
        return [f"{IMAGE_TOKEN}\n{questions[0].replace(IMAGE_TOKEN, '').strip()}", *questions[1:]]
    if not any(IMAGE_TOKEN in question for question in questions):
        return [f"{IMAGE_TOKEN}\n" * num_images + questions[0].strip(), *questions[1:]]
    return [question.strip() if IMAGE_TOKEN in question else question for question in questions]


def render(turns: Sequence[Turn], template: str, eos: str, num_images: int = 1) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation.

    Args:
        turns: the turns in order; the last may lack an answer, which leaves the text open for generation.
        template: a key of `SYSTEM`.
        eos: the tokenizer's end-of-sequence text, written (and supervised) after every answer.
        num_images: pictures of the record.

    Returns:
        The text, and for every answer its half-open character span, `eos` included.
    """
    text = SYSTEM[template]
    spans: list[tuple[int, int]] = []
    for index, (turn, question) in enumerate(zip(turns, marked(turns, num_images), strict=True)):
        text += f"{' ' if index == 0 and text else ''}USER: {question} ASSISTANT:"
        if turn.answer is None:
            assert index == len(turns) - 1, "only the last turn may lack an answer"
            break
        start = len(text)
        text += f" {turn.answer}{eos}"
        spans.append((start, len(text)))
    return text, spans
