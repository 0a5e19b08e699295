"""Conversations in a model's own chat template (`model.prompt: chat`), with the character spans of the answers.

Where an answer lies is not guessed from marks in the text. The conversation is rendered up to each question, open for
its answer, and up to each answer: the one must continue the other, and what it adds is the answer with its end.
"""

from collections.abc import Sequence
from typing import Any

from fcit_ray.errors import ConfigError
from fcit_ray.models.load import load_processor, takes_squares
from fcit_ray.models.prompt import IMAGE_TOKEN, Turn, marked


def render_chat(turns: Sequence[Turn], processor: Any, num_images: int = 1) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation, its pictures where `prompt.marked` puts their marks, unexpanded.

    A question becomes parts, texts and pictures in the order in which they stand; some templates put the pictures of a
    question in front of its texts (LLaVA-OneVision's does).

    A template may put other white space in front of an answer than it puts where it opens for one (LLaVA-OneVision's
    does). Then the latter is taken in training too, so that training and answering see the same question.

    Args:
        turns: the turns in order; the last may lack an answer, which leaves the text open for generation.
        processor: whose template is used.
        num_images: pictures of the record.

    Returns:
        The text, and for every answer its half-open character span, the end of the turn included.

    Raises:
        ConfigError: the template does not tell where an answer begins or ends, or does not mark every picture.
    """
    text, history = "", ""
    spans: list[tuple[int, int]] = []
    messages: list[dict[str, Any]] = []
    for index, (turn, question) in enumerate(zip(turns, marked(turns, num_images), strict=True)):
        messages.append({"role": "user", "content": _parts(question)})
        asked = _apply(processor, messages, open_for_answer=True)
        if not asked.startswith(history):
            raise _error(processor, "rewrites earlier turns when a question follows", history, asked)
        text += asked[len(history) :]
        if turn.answer is None:
            assert index == len(turns) - 1, "only the last turn may lack an answer"
            break
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        history = _apply(processor, messages, open_for_answer=False)
        said, end = _said(processor, asked, history, turn.answer.strip())
        spans.append((len(text), len(text) + end))
        text += said
    marks = picture_marks(processor)
    if (count := sum(map(text.count, marks))) != num_images:
        of = "one picture" if num_images == 1 else f"{num_images or 'no'} pictures"
        raise _error(processor, f"writes {' or '.join(sorted(marks))} {count} times for {of}", "", text)
    return text, spans


def picture_marks(processor: Any) -> frozenset[str]:
    """What a template may write for a picture, before the processor makes its places of it.

    Gemma 3's writes the mark of a picture's beginning, which some versions of transformers call its token.
    """
    return frozenset({processor.image_token, getattr(processor, "boi_token", None) or processor.image_token})


def stop_tokens(processor: Any, template: str, generation: Any) -> list[int]:
    """Token ids that end an answer in generation.

    Args:
        processor: the model's.
        template: as in `model.prompt`. With `chat` these are the template's end of a turn, the tokenizer's end of
            sequence and those of the model's generation configuration; else the tokenizer's alone, as it was taught.
        generation: the model's generation configuration.
    """
    tokenizer = processor.tokenizer
    if template != "chat":
        return [tokenizer.eos_token_id]
    own = generation.eos_token_id
    return sorted({tokenizer.eos_token_id, _end_token(processor), *(own if isinstance(own, list) else [own])} - {None})


def check_prompt(path: str, template: str) -> None:
    """Whether a model can be prompted so.

    Raises:
        ConfigError: it cannot; says why and what would do.
        ModelError: no such model, or its processor does not load.
    """
    if template != "chat":
        if not takes_squares(path):
            raise ConfigError(
                f"model.prompt={template!r}: is LLaVA-1.5's wording, and the model in model.path={path!r} is another; "
                f"expected 'chat', its own template"
            )
        return
    processor = load_processor(path)
    if not getattr(processor, "chat_template", None):
        raise ConfigError(
            f"model.prompt='chat': the {type(processor).__name__} of model.path={path!r} has no chat template; "
            f"expected one (chat_template.jinja)" + (", or 'vicuna_v1'" if takes_squares(path) else "")
        )
    text, _ = render_chat([Turn("question", "answer"), Turn("another", "one")], processor)
    tokenizer = processor.tokenizer
    begin = tokenizer.bos_token
    if tokenizer.bos_token_id in tokenizer.in_front and begin in text and not text.startswith(begin):
        raise _error(processor, f"writes {begin} within the text, and the tokenizer another in front of it", "", text)
    _end_token(processor)


def _parts(question: str) -> list[dict[str, Any]]:
    """A question's content: its pictures, and the texts around them.

    A line's end behind a mark parts the two in LLaVA's records; here the template does that.
    """
    first, *rest = question.strip().split(IMAGE_TOKEN)
    parts: list[dict[str, Any]] = [{"type": "text", "text": first}] if first.strip() or not rest else []
    for text in rest:
        parts.append({"type": "image"})
        if text.strip():
            parts.append({"type": "text", "text": text.removeprefix("\n")})
    return parts


def _apply(processor: Any, messages: list[dict[str, Any]], *, open_for_answer: bool) -> str:
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=open_for_answer, tokenize=False))
    except Exception as error:  # a program in Jinja's sandbox, where transformers renders it: it may raise anything
        raise ConfigError(
            f"model.prompt='chat': the chat template of {type(processor).__name__} cannot be rendered: {error}"
        ) from None


def _said(processor: Any, asked: str, answered: str, answer: str) -> tuple[str, int]:
    """What an answer adds to its question, and where in it the end of the turn ends."""
    if answered.startswith(asked):
        said = answered[len(asked) :]
    elif answered.startswith(asked.rstrip()) and answered[len(asked.rstrip()) :].lstrip().startswith(answer):
        said = answered[len(asked.rstrip()) :].lstrip()
    else:
        raise _error(processor, "does not continue a question when it is answered", asked, answered)
    if not said.lstrip().startswith(answer):
        raise _error(processor, f"rewrites the answer {answer!r}", asked, said)
    end = len(said.rstrip())
    if end <= len(said) - len(said.lstrip()) + len(answer):
        raise _error(processor, "puts nothing after an answer that could end it", asked, said)
    return said, end


def _end_token(processor: Any) -> int:
    """The token that the template ends an answer with."""
    answer = "answer"
    text, [(start, stop)] = render_chat([Turn("question", answer)], processor)
    end = text[text.index(answer, start) + len(answer) : stop].strip()
    ids = processor.tokenizer(end, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise _error(processor, f"ends an answer with {end!r}, which is {len(ids)} tokens, expected one", "", text)
    return int(ids[0])


def _error(processor: Any, what: str, before: str, after: str) -> ConfigError:
    return ConfigError(
        f"model.prompt='chat': the chat template of {type(processor).__name__} {what}: "
        f"{before[-120:]!r} and then {after[-200:]!r}"
    )
