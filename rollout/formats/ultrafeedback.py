"""ultrafeedback_binarized: the prompt as a text, both answers as whole chats, the prompt's hash as id."""

from __future__ import annotations

from rollout.formats.chats import messages_of
from rollout.formats.files import Row
from rollout.formats.form import Form
from rollout.records import chat_of


def _read(row: Row, where: str, number: int) -> Row:
    chosen, rejected = (messages_of(row.get(name), name, where) for name in ("chosen", "rejected"))
    return {
        # The chats repeat the prompt; where a row has a system turn, only they have it.
        "chosen": chat_of(chosen),
        "rejected": chat_of(rejected),
        "id": row.get("prompt_id"),
        **({"language": row["language"]} if "language" in row else {}),
    }


FORM = Form("ultrafeedback", "preferences", ("prompt_id", "chosen", "rejected", ("score_chosen", "messages")), _read)
