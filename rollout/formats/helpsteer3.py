"""HelpSteer3-Preference: a context, two responses, and which is better from -3 (the first) to 3 (the second)."""

from __future__ import annotations

from configs.errors import UserError
from rollout.formats.files import Row
from rollout.formats.form import Form
from rollout.formats.numbers import whole_number

_SCORES = ("overall_preference", "preference")


def _read(row: Row, where: str, number: int) -> Row:
    name = next(name for name in (*_SCORES, "") if name in row or not name)
    if not name:
        raise UserError(f"{where}: field '{_SCORES[0]}' is missing; fill it in")
    preference = whole_number(row[name], name, where)
    if not -3 <= preference <= 3:
        raise UserError(f"{where}: {name} is outside -3 to 3; correct it")
    if preference == 0:
        raise UserError(f"{where}: no preference ({name} 0); nothing can be learnt from it")
    first, second = (row.get("response1"), row.get("response2"))
    # Of code the language is that of the program; what is said about it is English.
    language = "en" if row.get("domain") == "code" else row.get("language")
    return {
        "prompt": row.get("context"),
        "chosen": first if preference < 0 else second,
        "rejected": second if preference < 0 else first,
        **({} if language is None else {"language": language}),
    }


FORM = Form("helpsteer3", "preferences", ("context", "response1", "response2", _SCORES), _read)
