"""m-ArenaHard: a prompt with its question_id, which is the same in every language."""

from __future__ import annotations

from rollout.formats.files import Row
from rollout.formats.form import Form


def _read(row: Row, where: str, number: int) -> Row:
    language = {"language": row["language"]} if row.get("language") else {}
    return {"prompt": row.get("prompt"), "id": row.get("question_id"), **language}


FORM = Form("arena-hard", "prompts", ("question_id", "prompt", ("cluster", "category")), _read, without=("id",))
