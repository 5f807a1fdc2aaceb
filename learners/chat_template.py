"""A model's chat template: tried before it is trusted, and rendered the same all through a run.

A template is a program that came with a model. One that takes another form of messages than it is given renders
the user's text to nothing, without an error; one that asks for the date renders other tokens tomorrow.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from configs.errors import UserError
from configs.json_types import JsonMapping

# Unlikely strings, to find in a rendered chat what became of each text. Letters only: templates trim white space.
_USER, _ASSISTANT, _NEXT = "isoglossusertext", "isoglossassistantanswer", "isoglossnextusertext"
_TURN = "isoglossturn"
_TAKEN = frozenset({"messages", "add_generation_prompt"})  # set by the caller that renders
_SHORT_MARKER = 4  # characters; without a special token, less could be the end of anybody's text


class ChatTemplate:
    """The chat template of a tokenizer, and what it puts around texts.

    Attributes:
        between: What stands between a user's text and the answer, white space stripped.
        after: What it puts after the last assistant's text.
        continued: What it puts after an assistant's text if the user continues; ``after`` where it refuses that.
        text: The whole template where it is not the tokenizer's own; None where it is.

    Args:
        folder: Of the model, for messages.
        tokenizer: With the template.
        date: What ``strftime_now`` tells templates that ask for it; by default today, for as long as this lives.
        template: Instead of the tokenizer's; the tokenizer has it afterwards.
        values: Of the template's variables (``chat_template_kwargs``).
        bos: Put this text in front of chats that do not begin with it: whatever renders the template, here or where a
            checkpoint is served, gives the model what it was trained on.

    Raises:
        UserError: There is no template, or several and none called "default"; it has a syntax error; or it fails on,
            leaves out, repeats, or reorders the texts of a question and an answer.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        date: datetime.date | None = None,
        template: str | None = None,
        values: Mapping[str, object] | None = None,
        *,
        bos: str | None = None,
    ) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._whole: set[tuple[str, ...]] = set()  # roles of chats that come out whole
        self._now = datetime.datetime.combine(date or datetime.date.today(), datetime.time())
        if template is not None:
            tokenizer.chat_template = template
        self._check_kind(tokenizer.chat_template)
        if values:
            tokenizer.chat_template = with_values(tokenizer.chat_template, values)
        question = {"role": "user", "content": _USER}
        answer = {"role": "assistant", "content": _ASSISTANT}
        chat = self._trial([question, answer], (_USER, _ASSISTANT), generation_prompt=False)
        prefixed = bos is not None and not chat.startswith(bos)
        if prefixed:
            tokenizer.chat_template = with_start(tokenizer.chat_template, str(bos))
            chat = self._trial([question, answer], (_USER, _ASSISTANT), generation_prompt=False)
        changed = template is not None or bool(values) or prefixed
        self.text: str | None = tokenizer.chat_template if changed else None
        asked = self._trial([question], (_USER,), generation_prompt=True)
        inner = chat.partition(_USER)[2].partition(_ASSISTANT)[0]
        both = zip(inner, asked.partition(_USER)[2], strict=False)
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], both)
        self.between = "".join(first for first, _ in alike).strip()
        self.after = chat.partition(_ASSISTANT)[2]
        self.continued = self.after
        try:
            longer = self.render([question, answer, {"role": "user", "content": _NEXT}])
        except UserError:
            return  # it takes one question and one answer
        if _ASSISTANT in longer and _NEXT in longer:
            self.continued = longer.partition(_ASSISTANT)[2].partition(_NEXT)[0]

    def render(self, messages: Sequence[JsonMapping], generation_prompt: bool = False) -> str:
        """The chat as one text.

        Raises:
            UserError: The template refuses these turns, fails on them, or leaves the text of one out.
        """
        roles = tuple(str(one["role"]) for one in messages)
        cure = "; change the turns, or the template"
        if "system" in roles:
            cure = "; put what the system turn says into the user's (prompts.frame), or take another template"
        try:
            if len(roles) > 1 and roles not in self._whole:
                self._check_whole(roles, cure)
            return self._render(messages, generation_prompt)
        except UserError:
            raise
        except Exception as error:  # a template is a program, and may raise anything
            said = str(error) if isinstance(error, TemplateError) else _said(error)
            raise UserError(f"{self._folder}: its chat template refuses the prompt's turns ({said}){cure}") from error

    def _check_whole(self, roles: tuple[str, ...], cure: str) -> None:
        """Refuse a template that leaves out a turn without an error; each sequence of roles is tried once."""
        texts = [f"{_TURN}{'x' * number}e" for number in range(len(roles))]
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        found = self._render(turns, roles[-1] == "user")
        for role, text in zip(roles, texts, strict=True):
            if text not in found:
                raise UserError(
                    f"{self._folder}: its chat template leaves out the {role}'s turn of a chat of "
                    f"{', '.join(roles)}{cure}"
                )
        self._whole.add(roles)

    def applied(self, prompt: str, specials: Sequence[str]) -> str | None:
        """What shows that a user's text went through this template already; None for plain text.

        Args:
            prompt: A user's text.
            specials: The tokenizer's special tokens.
        """
        held = sum(self.between.count(token) for token in specials)
        if held > 1:
            return self.between if self.between in prompt else None
        # A text may speak of one special token, but it does not end where an answer begins.
        tells = held == 1 or len(self.between) >= _SHORT_MARKER
        return self.between if tells and prompt.rstrip().endswith(self.between) else None

    def ended(self, answer: str, specials: Sequence[str]) -> str | None:
        """The end of a turn that an answer's text brings along; None where it has none."""
        end = self.after.strip()
        found = any(token in end for token in specials) and answer.rstrip().endswith(end)
        return end if found else None

    def _render(self, messages: Sequence[JsonMapping], generation_prompt: bool) -> str:
        # A keyword hides the function of the same name that Transformers gives to templates.
        text = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt, strftime_now=self._now.strftime
        )
        return str(text)

    def _check_kind(self, template: object) -> None:
        where = f"{self._folder}: the tokenizer has"
        if not template:
            raise UserError(
                f"{where} no chat template; put a chat_template.jinja into the folder (an instruction-tuned variant of "
                "the model ships one)"
            )
        if isinstance(template, dict) and "default" not in template:
            raise UserError(
                f"{where} several chat templates ({', '.join(sorted(map(str, template)))}) and none called 'default'; "
                "put the one to train with into chat_template.jinja"
            )
        chosen = _chosen(template)
        if not isinstance(chosen, str):
            raise UserError(f"{where} a chat template that is {type(chosen).__name__} instead of text; replace it")

    def _trial(self, messages: list[dict[str, str]], texts: tuple[str, ...], generation_prompt: bool) -> str:
        """Render ``texts`` for trial: each must come out once, in order."""
        where = f"{self._folder}: its chat template"
        cure = "correct it (chat_template.jinja), or take the one of the model's instruction-tuned variant"
        try:
            found = self._render(messages, generation_prompt)
        except TemplateSyntaxError as error:
            raise UserError(f"{where} has a syntax error in line {error.lineno}: {error.message}; {cure}") from error
        except Exception as error:  # as above
            asked = "a question with its answer" if len(texts) > 1 else "a question"
            raise UserError(f"{where} fails on {asked} ({_said(error)}); {cure}") from error
        for text in texts:
            role = "user" if text == _USER else "assistant"
            if (count := found.count(text)) != 1:
                why = self._why_not(messages, text, generation_prompt) if count == 0 else ""
                raise UserError(
                    f"{where} puts the text of the {role}'s turn {count} times instead of once into a chat{why}; {cure}"
                )
        if [found.index(text) for text in texts] != sorted(found.index(text) for text in texts):
            raise UserError(f"{where} puts the answer in front of the question; {cure}")
        return found

    def _why_not(self, messages: list[dict[str, str]], text: str, generation_prompt: bool) -> str:
        parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
        try:
            taken = text in self._render(parts, generation_prompt)
        except Exception:  # as above; then the form of the messages is not the reason
            taken = False
        return " (it takes the content as a list of parts, and gets text)" if taken else ""


def special_texts(tokenizer: Any) -> set[str]:
    """The texts of a tokenizer's special tokens: those that have a role, and those that were added as special."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def with_values(template: str | dict[str, str], values: Mapping[str, object]) -> str:
    """A template that begins by setting variables: the caller that renders it need not be told of them.

    Raises:
        UserError: A name is none that a template can have, or a value has no form in a template.
    """
    lines = []  # with + the template's own first line stays as it is, however blocks are trimmed
    for name, value in values.items():
        if not name.isidentifier() or name in _TAKEN:
            raise UserError(f"chat_template_kwargs.{name}: is no name of a template's variable; rename or remove it")
        lines.append(f"{{%+ set {name} = {_literal(value, name)} +%}}")
    chosen = _chosen(template)
    head = "".join(lines)
    # A checkpoint of a run has them already.
    return chosen if chosen.startswith(head) else head + chosen


def with_start(template: str | dict[str, str], start: str) -> str:
    """A template whose chats begin with a text."""
    return f"{{{{ {start!r} }}}}{_chosen(template)}"


def _chosen(template: Any) -> Any:
    """The one of several that chats are rendered by."""
    return template["default"] if isinstance(template, dict) else template


def _literal(value: object, name: str) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_literal(one, name) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key, name)}: {_literal(one, name)}" for key, one in value.items()) + "}"
    raise UserError(f"chat_template_kwargs.{name}: has a value that no template can hold; write text, numbers or lists")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
