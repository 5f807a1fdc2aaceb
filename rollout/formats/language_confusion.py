"""The Language Confusion Benchmark's prompts: a source and the language that the answer is to be in; no ids.

Cross-lingual prompts are English with another ``language``; a file of each has the same prompts in the same order.
"""

from __future__ import annotations

from rollout.formats.files import Row
from rollout.formats.form import Form


def _read(row: Row, where: str, number: int) -> Row:
    return {
        "prompt": row.get("prompt"),
        "id": row["id"] if "id" in row else f"{row.get('source')}/{number}",
        "language": row.get("language"),
    }


FORM = Form("language-confusion", "prompts", ("prompt", "source", "language"), _read, without=("id",))
