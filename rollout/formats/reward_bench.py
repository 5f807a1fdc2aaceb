"""RewardBench and M-RewardBench: prompt, chosen, rejected as texts, with the models that wrote them and a subset."""

from __future__ import annotations

from rollout.formats.files import Row
from rollout.formats.form import Form

_KEPT = ("id", "language", "prompt", "chosen", "rejected", "system", "subset")


def _read(row: Row, where: str, number: int) -> Row:
    subset = next((row[name] for name in ("subset", "category", "source") if isinstance(row.get(name), str)), None)
    kept = {name: row[name] for name in _KEPT if row.get(name) not in (None, "")}
    return kept if subset is None else {**kept, "subset": subset}


FORM = Form("reward-bench", "preferences", ("prompt", "chosen", "rejected", "chosen_model", "rejected_model"), _read)
