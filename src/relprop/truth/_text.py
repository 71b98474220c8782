"""Made-up texts: which words decide is known, because they were put there."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from relprop._errors import unknown_name
from relprop.truth._planted import at_least_one

MASK, START, ASK = "[mask]", "[start]", "?"
_GOOD = tuple("great brilliant lovely superb moving funny clever warm".split())
_BAD = tuple("awful dull clumsy boring grim weak silly cold".split())
_PLAIN = tuple("the film a plot of and it was with actor scene in by that long music".split())
_LETTERS = tuple("abcdefgh")
_KEYS, _VALUES = tuple("abcdefghijklmnop"), tuple(f"{n}" for n in range(10))
PEOPLE = tuple("Ada Ben Cem Dia Eva Fin".split())
_THINGS = tuple("ball cup book lamp key coin".split())
PLACES = tuple("garden hall attic cellar kitchen porch".split())


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts of one length as token ids.

    Attributes:
        ids: of tokens in `vocabulary`.
        target: the class of each text.
        evidence: the tokens that made it.
        vocabulary: the words.
        classes: how many there are.
    """

    ids: Int[np.ndarray, "n tokens"]
    target: Int[np.ndarray, " n"]
    evidence: Bool[np.ndarray, "n tokens"]
    vocabulary: tuple[str, ...]
    classes: int


VOCABULARIES = {
    "key-value": (MASK, START, ASK, *_KEYS, *_VALUES),
    "negation": (MASK, START, "not", *_PLAIN, *_GOOD, *_BAD),
    "multi-hop": (MASK, START, ASK, "has", "in", *PEOPLE, *_THINGS, *PLACES),
    "evidence-spans": (MASK, START, *_PLAIN, *_GOOD, *_BAD),
    "compiled-induction": (START, *_LETTERS),
}
CLASSES = {"key-value": 10, "negation": 2, "multi-hop": len(PLACES), "evidence-spans": 2}
CLASSES |= {"compiled-induction": len(_LETTERS)}


def texts(task: str, count: int = 64, seed: int = 0) -> Texts:
    """Draws texts of a task.

    - ``"key-value"``: six pairs and a key that is asked for; the class is its value (a needle);
    - ``"negation"``: a word of praise or blame among plain ones, after "not" or not; some "not"
      stand elsewhere;
    - ``"multi-hop"``: who has what and who is where; the class is the place of a thing;
    - ``"evidence-spans"``: reviews with two spans of one opinion and one of the other;
    - ``"compiled-induction"``: different letters, the last of which stood before; the class is what
      came after it.

    Args:
        task: which of them.
        count: how many texts.
        seed: of all that is drawn.

    Raises:
        UnknownNameError: no such task.

    >>> few = texts("negation", count=1)
    >>> len(few.ids[0]), few.classes
    (14, 2)
    """
    at_least_one(count)
    if task not in VOCABULARIES:
        raise unknown_name("text task", task, VOCABULARIES)
    write = {
        "key-value": _key_value,
        "negation": _negation,
        "multi-hop": _multi_hop,
        "evidence-spans": _spans,
        "compiled-induction": _induction,
    }[task]
    rng = np.random.default_rng([seed, 4])
    vocabulary = VOCABULARIES[task]
    number = {word: i for i, word in enumerate(vocabulary)}
    drawn = [write(rng) for _ in range(count)]
    ids = np.array([[number[word] for word in words] for words, _, _ in drawn])
    target = np.array([target for _, target, _ in drawn])
    evidence = np.zeros(ids.shape, bool)
    for row, (_, _, places) in zip(evidence, drawn, strict=True):
        row[places] = True
    return Texts(ids, target, evidence, vocabulary, CLASSES[task])


def _key_value(rng: np.random.Generator) -> tuple[list[str], int, list[int]]:
    keys = rng.permutation(_KEYS)[:6]
    values = rng.choice(len(_VALUES), 6)
    asked = int(rng.integers(6))
    pairs = [w for key, value in zip(keys, values, strict=True) for w in (key, _VALUES[value])]
    at = 1 + 2 * asked
    words = [START, *map(str, pairs), ASK, str(keys[asked])]
    return words, int(values[asked]), [at, at + 1, len(words) - 1]


def _negation(rng: np.random.Generator) -> tuple[list[str], int, list[int]]:
    words = [START, *map(str, rng.choice(_PLAIN, 13))]
    good, negated = rng.integers(0, 2, 2)
    at = int(rng.integers(3, 14))
    words[at] = str(rng.choice(_GOOD if good else _BAD))
    if negated:
        words[at - 1] = "not"
    free = [i for i in range(1, 14) if i not in (at - 1, at)]
    if rng.random() < 0.5:
        words[int(rng.choice(free))] = "not"
    return words, int(good ^ negated), [at - 1, at] if negated else [at]


def _multi_hop(rng: np.random.Generator) -> tuple[list[str], int, list[int]]:
    people = rng.permutation(PEOPLE)[:3]
    things, places = rng.permutation(_THINGS)[:3], rng.permutation(len(PLACES))[:3]
    facts = [(str(p), "has", str(t)) for p, t in zip(people, things, strict=True)]
    facts += [(str(p), "in", PLACES[place]) for p, place in zip(people, places, strict=True)]
    order = rng.permutation(6)
    asked = int(rng.integers(3))
    words = [START, *(word for i in order for word in facts[i]), ASK, str(things[asked])]
    starts = [1 + 3 * int(np.flatnonzero(order == fact)[0]) for fact in (asked, asked + 3)]
    evidence = [start + offset for start in starts for offset in (0, 2)]
    return words, int(places[asked]), [*evidence, len(words) - 1]


def _spans(rng: np.random.Generator) -> tuple[list[str], int, list[int]]:
    words = [START, *map(str, rng.choice(_PLAIN, 20))]
    good = int(rng.integers(2))
    slots = rng.permutation([1, 5, 9, 13, 17])[:3] + rng.integers(0, 2, 3)
    evidence = []
    for n, slot in enumerate(slots):
        praise = good if n < 2 else 1 - good
        for place in range(slot, slot + 3):
            words[place] = str(rng.choice(_GOOD if praise else _BAD))
        evidence += list(range(slot, slot + 3)) if n < 2 else []
    return words, good, evidence


def _induction(rng: np.random.Generator) -> tuple[list[str], int, list[int]]:
    drawn = rng.permutation(len(_LETTERS))[:7]
    at = int(rng.integers(6))  # of the token that comes again, among those that are followed by one
    words = [START, *(_LETTERS[n] for n in drawn), _LETTERS[drawn[at]]]
    return words, int(drawn[at + 1]), [at + 1, at + 2, len(words) - 1]
