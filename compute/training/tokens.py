"""Builds the CLIP tokenizer of the bundled model: a small byte-pair vocabulary in which every known word is one token.

Words outside the little world fall to letters, so any text has tokens. Knows the captions only as a stream of words.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from transformers import CLIPTokenizer

MAX_TOKENS: Final = 32
_KNOWN_FROM: Final = 8  # a word seen less often is noise, and stays letters
START, END = "<|startoftext|>", "<|endoftext|>"
# Words of free phrasing that captions may lack; as one token each they cost a long prompt less room.
_EXTRA_WORDS: Final = (
    "and the with of in on at is there that very one some its has have it this make please create me generate "
    "photo image picture"
).split()


def build(captions: Iterable[str]) -> CLIPTokenizer:
    """A tokenizer in which every usual word of the captions is one token; the same captions give the same one."""
    counts = Counter(word for caption in captions for word in _words(caption))
    known = Counter({word: count for word, count in counts.items() if count >= _KNOWN_FROM})
    merges = _merges(known + Counter(_EXTRA_WORDS))
    letters = _byte_letters()
    pieces = letters + [letter + "</w>" for letter in letters] + [left + right for left, right in merges] + [START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each text, padded and cut to MAX_TOKENS as the pipeline does it."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return [list(ids) for ids in encoded.input_ids]


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z]+|[^a-z\s]+", caption.lower())


def _merges(counts: "Counter[str]") -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each counted word is a single piece."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        split = {word: _merged(pieces, best) for word, pieces in split.items()}


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        # A piece that has just been merged may not be the left half of the same pair again.
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte value."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(value) if value in kept else chr(next(spare)) for value in range(256)]
