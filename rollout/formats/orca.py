"""orca-dpo-pairs: a system message (often empty), a question, two answers; with Argilla's marks of ties."""

from __future__ import annotations

from configs.errors import UserError
from rollout.formats.files import Row
from rollout.formats.form import Form


def _read(row: Row, where: str, number: int) -> Row:
    if row.get("status") == "tie":  # in distilabel-intel-orca-dpo-pairs
        raise UserError(f"{where}: a tie; the answers are rated alike")
    question = next((row[name] for name in ("question", "input") if row.get(name)), None)
    kept = {name: row.get(name) for name in ("chosen", "rejected")}
    more = {name: row[name] for name in ("system", "id", "language") if row.get(name) not in (None, "")}
    return {"prompt": question, **kept, **more}


FORM = Form("orca", "preferences", ("system", ("question", "input"), "chosen", "rejected"), _read, without=("prompt",))
