"""Facts about people, the prompt files that ask for them, and English preference pairs about them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
    """All facts, in two parts that share none."""

    train: list[Fact]
    heldout: list[Fact]

    @property
    def all(self) -> list[Fact]:
        """Both parts."""
        return self.train + self.heldout


def draw_facts(pivot: Language, seed: int, train_share: float) -> FactSplit:
    """Draw a value for every person and relation, and split the facts.

    Depends on the pivot's keys alone, so that a further language changes no fact.
    """
    rng = random.Random(f"facts-{seed}")
    facts = [
        Fact(person, relation, rng.choice(list(pivot.relations[relation].values)))
        for person in pivot.people
        for relation in pivot.relations
    ]
    rng.shuffle(facts)
    cut = round(len(facts) * train_share)
    return FactSplit(train=facts[:cut], heldout=facts[cut:])


def other_value(pivot: Language, fact: Fact, rng: random.Random) -> str:
    """A wrong value for ``fact``, uniformly drawn."""
    return rng.choice([value for value in pivot.relations[fact.relation].values if value != fact.value])


def prompt_rows(language: Language, facts: list[Fact]) -> list[Row]:
    """Rows ``{"id", "prompt", "answer"}`` of one language, in the order of ``facts``."""
    return [
        {
            "id": fact.id,
            "prompt": language.question(fact.person, fact.relation),
            "answer": language.answer(fact.person, fact.relation, fact.value),
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


def write_prompts(languages: dict[str, Language], split: FactSplit, out: Path) -> None:
    """Write ``prompts/train/<code>.jsonl`` and ``prompts/heldout/<code>.jsonl`` below ``out``."""
    for code, language in languages.items():
        write_jsonl(out / "prompts" / "train" / f"{code}.jsonl", prompt_rows(language, split.train))
        write_jsonl(out / "prompts" / "heldout" / f"{code}.jsonl", prompt_rows(language, split.heldout))
