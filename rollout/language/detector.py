"""Is a text in the language that was asked for? Scripts decide first, then lingua, against the language's neighbours.

Single-threaded and deterministic. What cannot be told is said to be so, and never counted as right.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from rollout.language.cleaning import prose
from rollout.language.letters import languages_of_letters, without_latin, without_names
from rollout.language.models import all_models, confidences, modelled, models_of, of_the_likely
from rollout.language.neighbours import COMMON, NEIGHBOURS, SAME
from rollout.language.scripts import (
    base_of,
    chinese_variant,
    letters_needed,
    script_counts,
    scripts_of,
    variant_of,
)

UNKNOWN = "und"  # BCP-47 for undetermined: surely a language, surely none that is known here

# Smallest lead over the rival, in lingua's confidence (0 to 1). Short sentences with foreign names lead by less;
# refusing them would cost more right answers than it would find wrong ones.
MIN_LEAD = 0.15
# The same for a text of a language that lingua has no model of, which resembles some other one by chance.
SURE_LEAD = 0.5

_FOREIGN_KANA = 0.1  # share of a text's letters above which it is no Chinese
_SLACK = 0.05  # how near to a threshold all languages are asked, where only the likely ones were (`of_the_likely`)
_PIECE = 100  # characters: of a long text three such pieces are looked at, from its beginning, middle and end


class LanguageCheck(NamedTuple):
    """What was found.

    Attributes:
        outcome: "right", "other" or "undecided".
        code: The language asked for if right; if other, the run's code, else ISO 639-1, else ``und``.
        reason: E.g. "script", "neighbours", "short", "no model", "close".
    """

    outcome: Literal["right", "other", "undecided"]
    code: str | None
    reason: str


class _Rivals(NamedTuple):
    """What a text in one language and script is held against: sorted names, those of the run, and all with the own."""

    names: tuple[str, ...]
    of_run: frozenset[str]
    with_own: frozenset[str]


class LanguageDetector:
    """Detects the languages of a run.

    Attributes:
        undetectable: Codes without a model and without a script of their own: texts in them stay undecided, unless
            they are surely in another language of the run. The caller should warn that their gate is open.
    """

    def __init__(self, codes: Sequence[str], min_chars: int = 8) -> None:
        """Build the detector.

        Args:
            codes: BCP-47 codes; of subtags only scripts count (``pt-BR`` and ``pt-PT`` are one language here).
            min_chars: Texts with fewer letters are not decided; of scripts whose signs say more, fewer are enough.
        """
        self._codes = tuple(codes)
        self._min_chars = min_chars
        self._known_rivals: dict[tuple[str, str, frozenset[str]], _Rivals] = {}
        self.undetectable = undetectable(codes)

    def detect(self, text: str, expected: str | None = None) -> str | None:
        """The language of ``text``: a code of the run, another language's, ``und``; None if undecided.

        Args:
            text: A text; reasoning, code, formulas and addresses in it have no language.
            expected: The language that it should be in; without it, any of the run's.
        """
        return self.judge(text, expected).code if expected is not None else self._guess(text)

    @functools.lru_cache(maxsize=1 << 14)  # noqa: B019 -- a detector lives as long as its process; answers repeat
    def judge(self, text: str, expected: str) -> LanguageCheck:
        """Whether ``text`` is in the language ``expected`` (see :meth:`detect`)."""
        clean, counts = self._counted(text, expected)
        letters = sum(counts.values())
        if not letters:
            return LanguageCheck("undecided", None, "no letters")
        own = sum(counts[script] for script in scripts_of(expected))
        script = max(counts, key=lambda name: (counts[name], name))
        if letters < letters_needed(script, self._min_chars):
            return LanguageCheck("undecided", None, "short")
        if 2 * own < letters:
            return LanguageCheck("other", self._named(clean, script), "script")
        if script not in scripts_of(expected):
            script = max(scripts_of(expected), key=lambda name: counts[name])
        if "Hani" in scripts_of(expected):
            found = _han(expected, clean, counts)
            if found is not None:
                return found
        if script != "Latn":  # names in Latin letters among others
            clean = without_latin(clean)
        return self._against_neighbours(clean, expected, script)

    def _counted(self, text: str, expected: str | None) -> tuple[str, dict[str, int]]:
        """The prose of a text and its letters by script.

        In a text of another script names in Latin letters have no language, where enough is left without them.
        """
        clean = "\n".join(prose(text))
        counts = script_counts(clean)
        if expected is not None and counts["Latn"] and "Latn" not in (own := scripts_of(expected)):
            script = max(own, key=lambda name: counts[name])
            if counts[script] >= letters_needed(script, self._min_chars):
                clean = without_names(clean)
                counts = script_counts(clean)
        return clean, counts

    def _script(self, text: str, expected: str | None = None) -> tuple[str, dict[str, int], str] | None:
        """The prose of a text, its letters by script and the script of most; None where there are too few letters."""
        clean, counts = self._counted(text, expected)
        script = max(counts, key=lambda name: (counts[name], name), default="")
        letters = sum(counts.values())
        return (clean, counts, script) if letters and letters >= letters_needed(script, self._min_chars) else None

    def confidence(self, text: str, expected: str) -> float | None:
        """How sure it is, 0 to 1, that ``text`` is in ``expected``; None where nothing can be told.

        The share of letters in the language's scripts, times lingua's confidence in it against its neighbours and the
        run's other languages where the script has several. Where :meth:`judge` gives a verdict by yes or no, this is
        graded.
        """
        found = self._script(text, expected)
        if found is None:
            return None
        clean, counts, script = found
        share = sum(counts[name] for name in scripts_of(expected)) / sum(counts.values())
        if share < 0.5:
            return 0.0
        if script not in scripts_of(expected):
            script = max(scripts_of(expected), key=lambda name: counts[name])
        own = models_of(expected, script)
        by_rule = _han(expected, clean, counts) if "Hani" in scripts_of(expected) else None
        if by_rule is None and not own:
            by_rule = self._without_model(clean, expected, script)
        if by_rule is not None:
            return None if by_rule.outcome == "undecided" else share * (by_rule.outcome == "right")
        sample = _sample(clean if script == "Latn" else without_latin(clean))
        rivals = self._rivals(expected, script, own, sample)
        if not rivals.names:
            return share
        values = confidences(sample, rivals.with_own)
        return share * sum(values.get(language, 0.0) for language in own) if any(values.values()) else None

    def _against_neighbours(self, text: str, expected: str, script: str) -> LanguageCheck:
        own = models_of(expected, script)
        if not own:
            return self._without_model(text, expected, script)
        sample = _sample(text)
        rivals = self._rivals(expected, script, own, sample)
        if not rivals.names:
            return LanguageCheck("right", expected, "script")
        rough = of_the_likely(sample, own, rivals.with_own)
        verdict = None if rough is None else self._leading(rough, expected, script, own, rivals, slack=_SLACK)
        if verdict is None:
            verdict = self._leading(confidences(sample, rivals.with_own), expected, script, own, rivals)
        assert verdict is not None
        return verdict

    def _leading(
        self,
        values: Mapping[str, float],
        expected: str,
        script: str,
        own: frozenset[str],
        rivals: _Rivals,
        *,
        slack: float = 0.0,
    ) -> LanguageCheck | None:
        """The verdict that confidences give; None where one that is wrong by ``slack`` could give another."""
        if values.keys() <= own:  # nothing else is near
            return LanguageCheck("right", expected, "neighbours")
        mine = sum(values.get(language, 0.0) for language in own)
        best = max(rivals.names, key=lambda language: values.get(language, 0.0))
        behind = values.get(best, 0.0) - mine
        # A rival of the run must be beaten clearly, since answers in it are to be expected. A neighbour beside the run
        # only has to stay behind: several of them share the confidence of a short text that is right.
        ahead = mine - max((values.get(language, 0.0) for language in rivals.of_run), default=0.0)
        if slack:
            second = max((values.get(language, 0.0) for language in rivals.names if language != best), default=0.0)
            named_surely = behind < MIN_LEAD or values.get(best, 0.0) - second >= slack
            if not named_surely or min(abs(behind - MIN_LEAD), abs(ahead - MIN_LEAD)) < slack:
                return None
        if behind >= MIN_LEAD:
            return LanguageCheck("other", self._run_code(best, script), "neighbours")
        if ahead >= MIN_LEAD:
            return LanguageCheck("right", expected, "neighbours")
        return LanguageCheck("undecided", None, "close")

    def _without_model(self, text: str, expected: str, script: str) -> LanguageCheck:
        if _decidable(self._codes, expected, script):
            return LanguageCheck("right", expected, "script")
        others = frozenset(language for code in self._codes for language in models_of(code, script)) | {"en"}
        known = all_models(script)
        if not known:
            return LanguageCheck("undecided", None, "no model")
        values = confidences(_sample(text), known)
        first, second = (*sorted(values, key=lambda name: (-values[name], name)), "", "")[:2]
        if first in others and values[first] - values.get(second, 0.0) >= SURE_LEAD:
            return LanguageCheck("other", self._run_code(first, script), "no model")
        return LanguageCheck("undecided", None, "no model")

    def _rivals(self, expected: str, script: str, own: frozenset[str], sample: str) -> _Rivals:
        """What a sample is held against: the run's languages, neighbours, and those that its letters hint at."""
        hinted: frozenset[str] = frozenset()
        if script == "Latn":
            hinted = languages_of_letters(sample, min(own))
        found = self._known_rivals.get((expected, script, hinted))
        if found is None:
            asked = {language for code in self._codes for language in models_of(code, script)}
            near = {language for name in own for language in NEIGHBOURS.get(name, ())}
            common = {*near, *COMMON.get(script, ()), *hinted}
            present = {language for language in common if script in scripts_of(language)}
            same = {name for group in SAME if expected in group or own & group for name in group}
            rivals = frozenset((present - same) | asked) - own
            found = _Rivals(tuple(sorted(rivals)), rivals & asked, rivals | own)
            self._known_rivals[expected, script, hinted] = found
        return found

    def _run_code(self, language: str, script: str) -> str:
        return next((code for code in self._codes if language in models_of(code, script)), language)

    def _named(self, text: str, script: str) -> str:
        """The run's code of a text in ``script``, or ``und``."""
        codes = [code for code in self._codes if script in scripts_of(code)]
        if script in ("Hani", "Kana"):
            kana = script_counts(text)["Kana"]
            return next((c for c in codes if (base_of(c) == "ja") == (kana > 0)), UNKNOWN)
        models = {language for code in codes for language in models_of(code, script)}
        if not codes:
            return UNKNOWN
        if not models or (len(codes) == 1 and script not in COMMON):
            return codes[0] if len(codes) == 1 else UNKNOWN
        values = confidences(_sample(text), frozenset(models) | modelled(COMMON.get(script, ()), script))
        first = max(sorted(values), key=lambda name: values[name], default="")
        return self._run_code(first, script) if first else UNKNOWN

    def _guess(self, text: str) -> str | None:
        """The likeliest code of the run; another language's where that is likelier."""
        found = self._script(text)
        if found is None:
            return None
        script = found[2]
        codes = [code for code in self._codes if script in scripts_of(code)]
        if not codes:
            return UNKNOWN
        verdicts = [self.judge(text, code) for code in codes]
        right = [code for code, verdict in zip(codes, verdicts, strict=True) if verdict.outcome == "right"]
        if right:
            return right[0]
        named = [verdict.code for verdict in verdicts if verdict.outcome == "other"]
        return named[0] if len(named) == len(codes) else None


def undetectable(codes: Sequence[str]) -> tuple[str, ...]:
    """Those of a run's codes that neither a model nor a script of their own tells from others: their gate is open."""
    return tuple(code for code in codes if not any(_decidable(codes, code, script) for script in scripts_of(code)))


def _decidable(codes: Sequence[str], code: str, script: str) -> bool:
    """Whether a model, or the script alone, tells a language apart from the others of the run."""
    if models_of(code, script):
        return True
    if all_models(script):
        return False
    return sum(script in scripts_of(other) for other in codes) <= 1


def _han(expected: str, text: str, counts: dict[str, int]) -> LanguageCheck | None:
    """What Han characters say before any model: no kana in Chinese, some in Japanese, and which writing system."""
    letters, kana = sum(counts.values()), counts.get("Kana", 0)
    base, variant = base_of(expected), chinese_variant(text)
    if base == "ja":
        if kana:
            return LanguageCheck("right", expected, "script")
        if variant == "Hans":
            return LanguageCheck("other", "zh", "script")
        return LanguageCheck("undecided", None, "Han alone")
    if base == "ko":
        return None if 2 * counts.get("Hang", 0) >= letters else LanguageCheck("other", "zh", "script")
    if kana > _FOREIGN_KANA * letters:
        return LanguageCheck("other", "ja", "script")
    asked = variant_of(expected)
    if asked in ("Hans", "Hant") and variant is not None and variant != asked:
        return LanguageCheck("other", f"zh-{variant}", "script")
    return LanguageCheck("right", expected, "script")


def _sample(text: str) -> str:
    """The text, or three pieces of a long one: what a language is, a few hundred characters tell as well."""
    flat = " ".join(text.split())
    if len(flat) <= 3 * _PIECE:
        return flat
    middle = len(flat) // 2
    return f"{flat[:_PIECE]} {flat[middle - _PIECE // 2 : middle + _PIECE // 2]} {flat[-_PIECE:]}"
