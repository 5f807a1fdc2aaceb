"""Facts about people, their split, the prompt files that ask for them, and English preference pairs about them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from worlds.confusion import Confusions, confusions
from worlds.languages import PIVOT, Language

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Fact:
    """One true statement, without words."""

    person: str
    relation: str
    value: str

    @property
    def id(self) -> str:
        """Joins the languages' prompts about this fact."""
        return f"{self.person}-{self.relation}"


@dataclass(frozen=True, slots=True)
class FactSplit:
    """All facts, in three parts that share none.

    Attributes:
        train: In preference pairs and in the anchors.
        heldout: In no pair; their values occur in training facts.
        values: In no pair; their values are in no training fact: one of each relation, and what chance left out.
    """

    train: list[Fact]
    heldout: list[Fact]
    values: list[Fact]

    @property
    def all(self) -> list[Fact]:
        """All parts."""
        return self.train + self.heldout + self.values


def draw_facts(pivot: Language, seed: int, train_share: float) -> FactSplit:
    """Draw a value for every person and relation, and split the facts.

    Depends on the pivot's keys alone, so that a further language changes no fact.

    Args:
        pivot: Names people, relations and values.
        seed: Of the world.
        train_share: Of all facts; the others are held out.
    """
    rng = random.Random(f"facts-{seed}")
    unseen = {relation: rng.choice(list(form.values)) for relation, form in pivot.relations.items()}
    facts = [
        Fact(person, relation, rng.choice(list(pivot.relations[relation].values)))
        for person in pivot.people
        for relation in pivot.relations
    ]
    rng.shuffle(facts)
    seen = [fact for fact in facts if fact.value != unseen[fact.relation]]
    train = seen[: round(len(facts) * train_share)]
    known = {(fact.relation, fact.value) for fact in train}
    rest = [fact for fact in facts if fact not in set(train)]
    heldout = [fact for fact in rest if (fact.relation, fact.value) in known]
    return FactSplit(train, heldout, [fact for fact in rest if (fact.relation, fact.value) not in known])


def other_value(pivot: Language, fact: Fact, rng: random.Random, but: str | None = None) -> str:
    """A wrong value for ``fact``, uniformly drawn; never ``but``."""
    return rng.choice([value for value in pivot.relations[fact.relation].values if value not in (fact.value, but)])


def prompt_rows(language: Language, facts: list[Fact], confused: Confusions, wording: int = 0) -> list[Row]:
    """Rows of one language, in the order of ``facts``.

    Each has "id", "prompt" and "answer"; "value" (relation and value: errors come in clusters of these) and "affected"
    ("yes" where the language takes the value for another one, else "no") group the results.
    """
    return [
        {
            "id": fact.id,
            "prompt": language.question(fact.person, fact.relation, wording),
            "answer": language.answer(fact.person, fact.relation, fact.value),
            "value": f"{fact.relation}-{fact.value}",
            "affected": "yes" if fact.value in confused.get(fact.relation, {}) else "no",
        }
        for fact in facts
    ]


def anchor_rows(pivot: Language, facts: list[Fact], seed: int, wrong_answers: int) -> list[Row]:
    """Preference pairs in the pivot language: the true sentence against each of ``wrong_answers`` others.

    Pair ids are the fact's id and a number; pairs come in random order, so that a prefix is a sample.
    """
    rng = random.Random(f"anchor-{seed}")
    rows = []
    for fact in facts:
        wrong = [value for value in pivot.relations[fact.relation].values if value != fact.value]
        for number, value in enumerate(rng.sample(wrong, min(wrong_answers, len(wrong)))):
            rows.append(
                {
                    "id": f"{fact.id}-{number}",
                    "language": PIVOT,
                    "prompt": pivot.question(fact.person, fact.relation),
                    "chosen": pivot.answer(fact.person, fact.relation, fact.value),
                    "rejected": pivot.answer(fact.person, fact.relation, value),
                }
            )
    rng.shuffle(rows)
    return rows


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, UTF-8, keys in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_prompts(languages: dict[str, Language], split: FactSplit, seed: int, out: Path) -> None:
    """Write ``prompts/<set>/<code>.jsonl`` below ``out``, the sets of :func:`prompt_sets`."""
    for code, language in languages.items():
        for name, rows in prompt_sets(language, split, confusions(language, seed)).items():
            write_jsonl(out / "prompts" / name / f"{code}.jsonl", rows)


def prompt_sets(language: Language, split: FactSplit, confused: Confusions) -> dict[str, list[Row]]:
    """The prompts of one language.

    Returns:
        "train"; "heldout", facts without a pair whose values have some; "wordings", train facts asked in words that no
        pair was; "values", facts whose value is in no pair.
    """
    return {
        "train": prompt_rows(language, split.train, confused),
        "heldout": prompt_rows(language, split.heldout, confused),
        "wordings": prompt_rows(language, split.train[: len(split.heldout)], confused, wording=-1),
        "values": prompt_rows(language, split.values, confused),
    }
