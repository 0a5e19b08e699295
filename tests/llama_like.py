"""A Llama-like tokenizer small enough to cut text by hand: BPE with sentencepiece's marks, bytes for what it lacks.

As in Llama's own vocabulary: 0 <unk>, 1 <s>, 2 </s>, then 256 bytes (a newline is 3 + 10 = 13), then pieces. `USER`
is one piece and `_USER` is two, `_US` and `ER`, as they are there.
"""

import json
from pathlib import Path

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

M = "\u2581"  # sentencepiece's mark of a space

PIECES = [
    *(f"{M}A", f"{M}chat", f"{M}between", f"{M}a", f"{M}curious", f"{M}user", f"{M}and", f"{M}an"),  # from 259
    *(f"{M}artificial", f"{M}intelligence", f"{M}assistant", ".", f"{M}The", f"{M}gives", f"{M}helpful"),  # from 267
    *(",", f"{M}detailed", f"{M}polite", f"{M}answers", f"{M}to", f"{M}the", "'", "s", f"{M}questions"),  # from 274
    *(f"{M}US", "ER", "USER", ":", M, f"{M}ASSISTANT", "which", f"{M}colour", "?", f"{M}dark", f"{M}red"),  # from 283
    *(f"{M}what", f"{M}where", f"{M}dog", f"{M}in", "[", "]", "0", "1", "2", "5"),  # from 294
]
FIRST = 3 + 256


def llama_tokenizer(legacy: bool) -> PreTrainedTokenizerFast:
    """The same as one that is loaded as it was saved."""
    tokenizer = _build(legacy)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _build(legacy: bool) -> LlamaTokenizer:
    """With `legacy` a mark stands before every stretch of text between special tokens, else before the first alone."""
    merges: list[tuple[str, str]] = []
    words = [piece for piece in PIECES if piece.startswith(M)]
    for word in [*words, "which"]:
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
    merges += [("E", "R"), ("U", "S"), ("US", "ER")]
    merges = list(dict.fromkeys(merges))
    letters = sorted({letter for piece in PIECES for letter in piece} | set("ABDIKLOPxyz"))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    pieces += [piece for piece in (*letters, *("".join(pair) for pair in merges)) if piece not in pieces]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=legacy, add_bos_token=True, add_eos_token=False)


def save_tokenizer(folder: Path, legacy: bool) -> int:
    """Write it as an original checkpoint has it; return its number of tokens."""
    tokenizer = _build(legacy)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "legacy": legacy}))
    return len(tokenizer)
