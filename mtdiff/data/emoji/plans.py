"""What a process works out once for all its sources: the edits of each split, and the texts and words of the set.

It takes seconds, and depends on nothing but the pack and the shares of the kinds of edit.
"""

from collections.abc import Mapping
from functools import cache

from mtdiff.data.emoji.changes import Plan, changes, plan, words
from mtdiff.data.emoji.edits import captions, instructions
from mtdiff.data.emoji.pack import Pack, Portrait
from mtdiff.types import Split

Weights = tuple[tuple[str, float], ...]
"""Kinds of edit with their shares."""
EDITS: Mapping[Split, int] = {"validation": 500, "test": 2000}
"""Edits in an epoch; one of training is long enough for every change to occur."""


def list_portraits(pack: Pack, split: Split) -> list[Portrait]:
    return [Portrait(s, e, t) for s in pack.styles for e in pack.of(split) for t in e.tones]


def list_texts(pack: Pack, weights: Weights, split: Split) -> list[str]:
    found = plan_edits(pack, weights, split).changes
    return list(dict.fromkeys([*captions(list_portraits(pack, split)), *instructions(pack, found)]))


@cache
def plan_edits(pack: Pack, weights: Weights, split: Split) -> Plan:
    """The epoch of edits of a split."""
    known = () if split == "train" else find_known_words(pack, weights)
    return plan(changes(pack, split, known), dict(weights), EDITS.get(split))


@cache
def find_known_words(pack: Pack, weights: Weights) -> frozenset[str]:
    """Words of the training texts."""
    return frozenset(w for text in list_texts(pack, weights, "train") for w in words(text))
