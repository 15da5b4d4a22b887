"""Sentences from a small grammar of our own, so that text lessons and tests need no file.

A hidden topic chooses who acts, what is done, to what and where. Words follow each other in one of
nine patterns, whatever the topic. So a language model can learn the patterns without a latent
variable, and the topic is what a latent variable is good for. Each sentence has exactly one
derivation: its probability is known, and with it the best perplexity there can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from avi.data.dataset import SPLITS
from avi.data.text import Corpus, Vocabulary, corpus

# Topic -> slot -> words. No word stands in two slots, or a sentence could have two derivations.
TOPICS: dict[str, dict[str, list[str]]] = {
    topic: {slot: words.split() for slot, words in zip(("who", "does", "what", "where"), lists)}
    for topic, lists in {
        "kitchen": (
            "cook baker waiter guest",
            "stirs bakes tastes serves peels",
            "soup bread onion pie sauce egg",
            "kitchen pantry bakery oven",
        ),
        "harbour": (
            "sailor captain fisher diver",
            "anchors steers paints tows unloads",
            "boat net sail ferry rope buoy",
            "harbour bay lighthouse dock",
        ),
        "school": (
            "teacher pupil tutor librarian",
            "reads explains copies learns corrects",
            "essay lesson poem equation atlas spelling",
            "classroom library hall schoolyard",
        ),
        "garden": (
            "gardener botanist neighbour beekeeper",
            "plants waters prunes digs picks",
            "rose bean hedge tulip melon fern",
            "garden orchard meadow greenhouse",
        ),
        "workshop": (
            "carpenter welder joiner apprentice",
            "saws sands drills mends measures",
            "table drawer plank hinge chair frame",
            "workshop shed sawmill garage",
        ),
        "stage": (
            "actor singer dancer drummer",
            "rehearses sings performs hums conducts",
            "opera tango ballad overture comedy duet",
            "theatre studio foyer gallery",
        ),
        "clinic": (
            "doctor nurse patient surgeon",
            "treats examines bandages cures notices",
            "cough fever wound rash ankle tooth",
            "clinic ward hospital pharmacy",
        ),
        "sky": (
            "astronomer pilot physicist stargazer",
            "observes photographs tracks charts predicts",
            "comet planet eclipse meteor galaxy moon",
            "observatory hangar desert hilltop",
        ),
    }.items()
}
SHARED: dict[str, list[str]] = {
    "like": "old young quiet cheerful tired clever careful famous small strange".split(),
    "how": "slowly gladly again badly alone carefully".split(),
    "when": "today yesterday sometimes later tonight usually".split(),
    **{word: [word] for word in ("the", "one", "in", "near", "beside", "and")},
}
PATTERNS = tuple(
    tuple(pattern.split())
    for pattern in (
        "the who does the what",
        "the like who does the what",
        "the who does one like what",
        "the who does the what in the where",
        "when the who does the what",
        "one who near the where does the what how",
        "when the like who does one what in the where",
        "the who beside the who does the what near the where",
        "the like who in the where does the what and one like what how",
    )
)


def generated_text(
    n_train: int = 5000, n_valid: int = 1000, n_test: int = 1000, seed: int = 0
) -> Corpus:
    """Sentences of 5 to 14 words from a stock of 180, with the topic of each as its label.

    Every choice is uniform and independent given the topic. The vocabulary lists every word of the
    grammar, so no word is unknown. Raises ValueError for a split without sentences.
    """
    # numpy promises that RandomState's stream never changes; torch does not promise it of its own.
    random, sizes = np.random.RandomState(seed), (n_train, n_valid, n_test)
    topics = {s: random.randint(len(TOPICS), size=n) for s, n in zip(SPLITS, sizes)}
    texts = {s: [sentence(t, random) for t in topics[s]] for s in SPLITS}
    plain = corpus(
        "generated",
        texts,
        source="drawn from a grammar with known probabilities",
        licence="none needed",
        vocabulary=vocabulary(),
    )
    labels = {s: torch.from_numpy(topics[s])[plain.split(s).origin] for s in SPLITS}
    return Corpus(**{**vars(plain), "labels": labels})


def sentence(topic: int, random: np.random.RandomState) -> list[str]:
    """One sentence on this topic."""
    pattern = PATTERNS[random.randint(len(PATTERNS))]
    return [_pick(slot_words(slot, topic), random) for slot in pattern]


def vocabulary() -> Vocabulary:
    """Every word of the grammar, the shared ones first."""
    by_topic = [words for slots in TOPICS.values() for words in slots.values()]
    return Vocabulary(tuple(word for words in [*SHARED.values(), *by_topic] for word in words))


def slot_words(slot: str, topic: int) -> list[str]:
    """What may stand in this slot of a sentence on this topic."""
    return SHARED[slot] if slot in SHARED else list(TOPICS.values())[topic][slot]


def log_prob(words: Sequence[str]) -> float:
    """log p of a sentence under the grammar, nats; -inf for what it cannot say.

    The sum over topics and patterns has at most one term that is not zero.
    """
    ways = [_given_topic(words, topic) for topic in range(len(TOPICS))]
    total = sum(map(math.exp, ways)) / len(TOPICS)
    return math.log(total) if total else -math.inf


def entropy() -> float:
    """E[-log p(sentence)], nats: no model has a lower expected negative log-likelihood."""
    return math.log(len(TOPICS)) + entropy_given_topic()


def entropy_given_topic() -> float:
    """The same with the topic known: log 8 less, which is all that a latent variable can tell."""
    sizes = [[len(slot_words(slot, 0)) for slot in pattern] for pattern in PATTERNS]
    within = sum(math.log(n) for pattern in sizes for n in pattern) / len(PATTERNS)
    return math.log(len(PATTERNS)) + within


def _given_topic(words: Sequence[str], topic: int) -> float:
    for pattern in PATTERNS:
        slots = [slot_words(slot, topic) for slot in pattern]
        if len(slots) == len(words) and all(w in slot for w, slot in zip(words, slots)):
            return -math.log(len(PATTERNS)) - sum(math.log(len(slot)) for slot in slots)
    return -math.inf


def _pick(words: list[str], random: np.random.RandomState) -> str:
    return words[random.randint(len(words))]
