"""Caption metrics of a corpus, all by pycocoevalcap: those that need no Java, and all seven of the paper.

Legend: B captions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from fcit_ray.data.scoring import coco_java


@dataclass(frozen=True)
class CaptionMetrics:
    """The metrics of a corpus and of its captions.

    Attributes:
        corpus: by name, 0..1 but for CIDEr, 0..10.
        captions: the same of each caption, (metrics, B), in the order of `corpus`.
    """

    corpus: dict[str, float]
    captions: NDArray[np.float64]


def portable_metrics(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> CaptionMetrics:
    """BLEU-1..4, ROUGE-L and CIDEr over words split by a rule of our own: lower case, no punctuation.

    References without a word are left out.

    Args:
        said: one caption a picture.
        wanted: the references of each, one of them with a word at least.
    """
    references = [[words for words in map(split_words, texts) if words] for texts in wanted]
    return _measured([split_words(text) for text in said], references, with_meteor=False)


def full_metrics(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> CaptionMetrics:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr over Penn Treebank words: pycocoevalcap's own, without SPICE.

    Raises:
        JavaError: no Java, or one of its programs failed.
    """
    words = iter(coco_java.tokenize([*said, *(text for texts in wanted for text in texts)]))
    captions = [next(words) for _ in said]
    return _measured(captions, [[next(words) for _ in texts] for texts in wanted], with_meteor=True)


def split_words(text: str) -> str:
    """Lower-case words joined by spaces; hyphens and apostrophes within a word stay."""
    return " ".join(re.findall(r"\w+(?:[-'\u2019]\w+)*", text.lower()))


def _measured(said: Sequence[str], wanted: Sequence[list[str]], with_meteor: bool) -> CaptionMetrics:
    captions = {index: [text] for index, text in enumerate(said)}
    references = dict(enumerate(wanted))
    bleus, bleu_lists = Bleu(4).compute_score(references, captions, verbose=0)
    rouge, rouge_list = Rouge().compute_score(references, captions)
    cider, cider_list = Cider().compute_score(references, captions)
    corpus = {f"BLEU-{n}": float(bleu) for n, bleu in enumerate(bleus, 1)}
    rows = [*bleu_lists]
    if with_meteor:
        corpus["METEOR"], meteor_list = coco_java.meteor(said, wanted)
        rows.append(meteor_list)
    corpus |= {"ROUGE-L": float(rouge), "CIDEr": float(cider)}
    return CaptionMetrics(corpus, np.array([*rows, rouge_list, cider_list]))
