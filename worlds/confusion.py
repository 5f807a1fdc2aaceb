"""Which values a language systematically takes for another one: its false friends.

For each language and relation one cyclic permutation of the values is drawn, and for a share of the values the
language's supervised answers state the next value of the cycle more often than the true one. So the language is wrong
*by mode*: its greedy answer is the other value, and the rule (value -> other value) reaches facts that no training pair
is about.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from worlds.languages import Language

Confusions = Mapping[str, Mapping[str, str]]  # relation -> value -> the value that the language states instead


def confusions(language: Language, seed: int) -> dict[str, dict[str, str]]:
    """The confused values of one language.

    Depends on the seed, the language's code and the relation's keys alone, so that a further language changes nothing.

    Args:
        language: With ``confused.share`` of each relation's values confused (rounded); none without ``confused``.
        seed: Of the world.

    Returns:
        relation -> value -> other value. A value is never taken for itself, and no two for the same one.
    """
    if language.confused is None:
        return {relation: {} for relation in language.relations}
    found: dict[str, dict[str, str]] = {}
    for relation, form in language.relations.items():
        rng = random.Random(f"confusions-{seed}-{language.code}-{relation}")
        cycle = list(form.values)
        rng.shuffle(cycle)
        following = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
        affected = rng.sample(cycle, round(language.confused.share * len(cycle)))
        found[relation] = {value: following[value] for value in sorted(affected)}
    return found
