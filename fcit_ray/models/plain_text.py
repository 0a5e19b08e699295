"""Users' text stays text: a question or an answer that spells a special token is characters, not that token.

A tokenizer takes `</s>`, `<pad>` or `<|im_end|>` for the token wherever it stands, in the template that means it and in
a question about HTML alike; an answer would end in its middle. `split_special_tokens` of transformers spells all of
them, the template's too, and some tokenizers' vocabularies hold them as pieces all the same. So the two are kept apart
by name: in users' text every such spelling is put out of sight (`hide`) behind a stand-in of the same length, made of
codes that Unicode keeps out of text; what is left are the template's own. A text with stand-ins is cut by a copy of the
tokenizer in which the special tokens are called otherwise, with the two names exchanged. Places of tokens in the text
stay true, and a text without stand-ins is cut by the tokenizer itself, as ever.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fcit_ray.models.prompt import IMAGE_TOKEN

_FIRST = [chr(code) for code in range(0xFDD0, 0xFDE0)]
_REST = [chr(code) for code in range(0xFDE0, 0xFDF0)]
_STAND_IN = re.compile(f"[{_FIRST[0]}-{_FIRST[-1]}][{_REST[0]}-{_REST[-1]}]*")


class SpelledError(ValueError):
    """Users' text spells special tokens that cannot be told from the model's own, in words that follow its place."""


class PlainText:
    """What a tokenizer knows of its special tokens once `keep_plain` has had it; the first of its bases.

    Attributes:
        reserved: spelling to token id of what only a template may write.
        in_front: tokens that the tokenizer puts in front of every text.
        behind: tokens that it puts behind.
    """

    reserved: dict[str, int]
    in_front: list[int]
    behind: list[int]
    _special: frozenset[int]  # without the token that any odd character may become
    _stand_ins: dict[str, str]  # of every reserved spelling, as long as it is
    _heads: tuple[str, ...]  # the spellings' first two characters: nearly no text has any
    _marks: re.Pattern[str]
    _either: re.Pattern[str]
    _copy: Any

    def hide(self, text: str) -> str:
        """A user's text with every special token that it spells put out of sight; `<image>`, the picture's mark, stays.

        Most texts spell none, and come back as they are.
        """
        if not any(head in text for head in self._heads):
            return text
        return self._marks.sub(lambda m: m[0] if m[0] == IMAGE_TOKEN else self._stand_ins[m[0]], text)

    def num_foreign(self, text: str, ids: Iterable[int], specials: bool) -> int:
        """How many special tokens there are that the template did not write; below 0 if it wrote more than were taken.

        Args:
            text: what was cut, users' text hidden.
            ids: what it became.
            specials: whether the tokenizer put its own around it.
        """
        special = self._special
        written = [self.reserved[mark] for mark in self._marks.findall(text)]
        if specials:
            written += [*self.in_front, *self.behind]
        return sum(token in special for token in ids) - sum(token in special for token in written)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Cut texts into tokens, as the tokenizer does; what is hidden becomes characters.

        Raises:
            SpelledError: something is hidden, and this tokenizer has no copy in which it could become characters.
        """
        kwargs.setdefault("verbose", False)  # a text may be longer than the tokenizer thinks wise: `max_length` decides
        texts = [text] if isinstance(text, str) else text or []
        if not any(isinstance(one, str) and _STAND_IN.search(one) for one in texts):
            return super().__call__(text, *args, **kwargs)  # type: ignore[misc]
        swapped = [self._swapped(one) for one in texts]
        return self._renamed()(swapped[0] if isinstance(text, str) else swapped, *args, **kwargs)

    def _swapped(self, text: str) -> str:
        spelled = {stand_in: mark for mark, stand_in in self._stand_ins.items()}
        return self._either.sub(lambda m: self._stand_ins.get(m[0]) or spelled[m[0]], text)

    def _renamed(self) -> Any:
        """The copy in which special tokens are called by their stand-ins, and nothing by their spellings."""
        if self._copy is None:
            try:
                self._copy = self._rebuilt()
            except Exception as error:  # tokenizers raises nothing more special
                raise SpelledError(
                    f"spells special tokens of the model's {type(self).__name__}, which cannot be made to take them "
                    f"for characters ({str(error)[:200]}); take them out"
                ) from error
        return self._copy

    def _rebuilt(self) -> Any:
        own = cast(Any, self)
        document = json.loads(own.backend_tokenizer.to_str())
        _rename(document, self._stand_ins)
        core = Tokenizer.from_str(json.dumps(document))
        roles = {name: self._stand_ins[str(own.special_tokens_map[name])] for name in _roles(own)}
        copy = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=own.model_max_length, **roles)
        copy.model_input_names = own.model_input_names
        self._check(copy)
        return copy

    def _check(self, copy: Any) -> None:
        """See that a copy numbers and cuts as the tokenizer does."""
        own = cast(Any, self)
        moved = [mark for mark, id in self.reserved.items() if copy.convert_tokens_to_ids(self._stand_ins[mark]) != id]
        marks = "".join(str(own.special_tokens_map[name]) for name in _roles(own))
        for probe in ("a", f"USER: which colour?\n{marks} (\u00e9) 12.5 {marks}red"):
            for specials in (True, False):
                expected = super().__call__(probe, add_special_tokens=specials)["input_ids"]  # type: ignore[misc]
                found = copy(self._swapped(probe), add_special_tokens=specials)["input_ids"]
                if moved or found != expected:
                    raise ValueError("it cuts other text otherwise once they are renamed")


def keep_plain(tokenizer: Any, template: object = None) -> Any:
    """Teach a fast tokenizer to tell users' text from its special tokens; the same object comes back.

    Special tokens are those that it calls so, and of its other added tokens those that the chat template writes, as the
    marks of turns are in some models.

    Args:
        tokenizer: that of a processor; nothing of it is changed but what it is asked through.
        template: the processor's chat template, if there is one.

    Raises:
        ValueError: it has special tokens that cannot be told from users' text.
    """
    if isinstance(tokenizer, PlainText):
        return tokenizer
    kind = type(tokenizer)
    both = type(kind.__name__, (PlainText, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    tokenizer.reserved = dict(_reserved(tokenizer, str(template or "")))
    tokenizer._special = frozenset(tokenizer.reserved.values()) - {tokenizer.unk_token_id}
    tokenizer._stand_ins = dict(_name(tokenizer.reserved))
    tokenizer._heads = tuple({mark[:2] for mark in tokenizer.reserved})
    # The longest that fits counts, as it does for the tokenizer.
    longest_first = sorted(tokenizer.reserved, key=len, reverse=True)
    tokenizer._marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    tokenizer._either = re.compile(f"{_STAND_IN.pattern}|{tokenizer._marks.pattern}")
    tokenizer._copy = None
    tokenizer.in_front, tokenizer.behind = _surroundings(tokenizer)
    tokenizer.__class__ = both
    return tokenizer


def _surroundings(tokenizer: Any) -> tuple[list[int], list[int]]:
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    return whole, []


def _reserved(tokenizer: Any, template: str) -> Iterator[tuple[str, int]]:
    for id, token in tokenizer.added_tokens_decoder.items():
        mark = token.content
        if token.special or (mark in template and mark.strip() and not mark.isalnum()):
            yield mark, id
    for mark in tokenizer.all_special_tokens:
        if (id := tokenizer.convert_tokens_to_ids(mark)) is not None:
            yield mark, id


def _name(marks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """A stand-in for each spelling, of its length, so that places in the text stay what they are."""
    left: dict[int, Iterator[tuple[str, ...]]] = {}
    for mark in marks:
        name = next(left.setdefault(len(mark), product(_FIRST, *[_REST] * (len(mark) - 1))), None)
        if name is None:  # more than 16 of a single character
            raise ValueError(f"has too many special tokens of {len(mark)} characters to tell them from users' text")
        yield mark, "".join(name)


def _roles(tokenizer: Any) -> list[str]:
    """Names under which a tokenizer keeps single special tokens, such as eos_token."""
    roles = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    return [name for name in roles if tokenizer.special_tokens_map.get(name)]


def _rename(document: dict[str, Any], names: dict[str, str]) -> None:
    """Call special tokens otherwise in a tokenizer's JSON, wherever a text could become them."""
    for token in document["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = document["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): id for piece, id in vocabulary.items()}
    else:  # Unigram: pieces with their scores
        model["vocab"] = [[names.get(piece, piece), *rest] for piece, *rest in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:

        def makes_special(merge: Any) -> bool:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            return not names.keys().isdisjoint((left, right, left + right))

        model["merges"] = [merge for merge in model["merges"] if not makes_special(merge)]
