"""Chat templates that will do and that will not, in words that can be followed by eye."""

from types import SimpleNamespace

import pytest

from fcit_ray.errors import ConfigError
from fcit_ray.models.chat import render_chat
from fcit_ray.models.prompt import Turn

TWO = [Turn("<image>\nwhich ?", "red"), Turn("sure ?", "red")]


def processor(question="Q {image}{text} ", opens="A", answers="A {text}.", rewrites=False):
    """A processor whose template writes these pieces."""

    def apply_chat_template(messages, add_generation_prompt, tokenize):
        assert not tokenize
        text = ""
        for message in messages:
            image = "*" * sum(part["type"] == "image" for part in message["content"])
            words = "".join(part["text"] for part in message["content"] if part["type"] == "text")
            if rewrites and message is not messages[-1] and message["role"] == "assistant":
                words = words.upper()
            text += (question if message["role"] == "user" else answers).format(image=image, text=words)
        return text + (opens if add_generation_prompt else "")

    return SimpleNamespace(apply_chat_template=apply_chat_template, image_token="*")


def test_the_answers_are_where_the_template_puts_them():
    text, spans = render_chat(TWO, processor())
    #        0    5    10   15   20   25
    assert text == "Q *which ? A red.Q sure ? A red."
    assert [text[start:end] for start, end in spans] == [" red.", " red."]
    assert spans == [(12, 17), (27, 32)]


def test_an_open_question_ends_where_its_answer_will_begin():
    text, spans = render_chat([TWO[0], Turn("sure ?")], processor())
    assert text == "Q *which ? A red.Q sure ? A"
    assert len(spans) == 1


def test_white_space_after_the_end_of_a_turn_is_not_taught():
    text, spans = render_chat(TWO[:1], processor(answers="A {text}.\n"))
    assert text.endswith("red.\n")
    assert [text[start:end] for start, end in spans] == [" red."]


def test_other_white_space_in_front_of_an_answer_gives_way_to_the_questions():
    # LLaVA-OneVision opens with "assistant\n" and answers with "assistant \n".
    text, spans = render_chat(TWO, processor(opens="A\n", answers="A \n{text}."))
    assert text == "Q *which ? A\nred.Q sure ? A\nred."
    assert [text[start:end] for start, end in spans] == ["red.", "red."]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"opens": "B"}, "does not continue a question when it is answered"),
        ({"answers": "A {text} "}, "puts nothing after an answer that could end it"),
        ({"answers": "A (thinks) {text}."}, "rewrites the answer 'red'"),
        ({"rewrites": True}, "rewrites earlier turns when a question follows"),
    ],
)
def test_a_template_that_does_not_tell_where_answers_are_is_refused(changes, told):
    with pytest.raises(ConfigError, match=f"model.prompt='chat': the chat template of SimpleNamespace {told}"):
        render_chat(TWO, processor(**changes))
