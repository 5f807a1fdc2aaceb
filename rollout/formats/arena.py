"""Arena battles (LMSYS, LMArena): two conversations and who won. Ties say nothing about which answer is better."""

from __future__ import annotations

from configs.errors import UserError
from configs.reading import shown
from rollout.formats.chats import messages_of
from rollout.formats.files import Row
from rollout.formats.form import Form
from rollout.records import Message, chat_of

_SIDES = ("conversation_a", "conversation_b")
_WON = {"model_a": 0, "model_b": 1}


def _read(row: Row, where: str, number: int) -> Row:
    winner = row.get("winner")
    if not isinstance(winner, str) or winner not in _WON:
        tie = isinstance(winner, str) and ("tie" in winner or "both" in winner)
        raise UserError(f"{where}: {'a tie' if tie else 'no winner'}; the winner is {shown(winner, 30)}")
    chats = [messages_of(row.get(name), name, where) for name in _SIDES]
    if any(chat[-1].role != "assistant" for chat in chats):
        raise UserError(f"{where}: a conversation does not end with an answer; remove the row")
    prompts = [chat[:-1] for chat in chats]
    if prompts[0] != prompts[1]:
        # From the second turn on, each model answers its own conversation: no prompt has both answers.
        raise UserError(f"{where}: several turns, answered differently before the last; only the last turn may differ")
    answers = [chat[-1].content for chat in chats]
    if _WON[winner] == 1:
        answers.reverse()
    key = next((row[name] for name in ("question_id", "id") if name in row), None)
    return {
        "prompt": _turns(prompts[0]),
        "chosen": answers[0],
        "rejected": answers[1],
        **({} if key is None else {"id": key}),
        **({"language": row["language"]} if "language" in row else {}),
    }


def _turns(turns: tuple[Message, ...]) -> object:
    return chat_of(turns)


FORM = Form("arena", "preferences", (*_SIDES, "winner"), _read)
