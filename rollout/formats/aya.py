"""aya_evaluation_suite: inputs and targets with language (ISO 639-3) and script; Dolly's are parallel by source_id."""

from __future__ import annotations

from rollout.formats.files import Row
from rollout.formats.form import Form


def _read(row: Row, where: str, number: int) -> Row:
    language = row.get("language")
    script = row.get("script")
    if isinstance(language, str) and isinstance(script, str) and len(script) == 4:
        language = f"{language}_{script}"
    key = row["source_id"] if row.get("source_id") is not None else row.get("id")
    return {"prompt": row.get("inputs"), "id": key, **({} if language is None else {"language": language})}


FORM = Form("aya", "prompts", ("inputs", "targets"), _read)
