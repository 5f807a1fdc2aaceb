"""What a run reads: every field that names a file or a folder, in one place for all that look whether it is there."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import Config
from configs.sources import FileSource


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path as a config has it.

    Attributes:
        field: That names it.
        text: As it is written, perhaps with ``{lang}``.
        codes: Languages that ``{lang}`` stands for; none where the files say which there are.
    """

    field: str
    text: str
    codes: tuple[str, ...] = ()


def named_paths(config: Config) -> list[NamedPath]:
    """Every file or folder of models and data that a run reads; without its own, and the endpoint's keys."""
    codes = tuple(config.languages.codes)
    found = {
        "model.policy": config.model.policy,
        "model.reference": config.model.reference if config.reads_reference else None,
        **{f"{section}.model": one.model for section, one in config.reward.models.items()},
        **{
            f"{name}.files.{code}": path
            for name, one in config.reward.words.items()
            for code, path in one.files.items()
        },
        "anchor.path": config.anchor.path,
        "candidates.untranslated_ids": config.candidates.untranslated_ids,
    }
    paths = [NamedPath(field, str(path)) for field, path in found.items() if path is not None]
    by_language = {
        "prompts.train": (config.prompts.train, codes),
        "prompts.heldout": (config.prompts.heldout, tuple(config.evaluated)),
        "offline.path": (config.offline.path, codes),
        **{
            f"candidates.sources.{place}.path": (source.path, tuple(source.languages) or codes)
            for place, source in enumerate(config.candidates.sources)
            if isinstance(source, FileSource)
        },
    }
    return paths + [NamedPath(field, text, of) for field, (text, of) in by_language.items() if text is not None]
