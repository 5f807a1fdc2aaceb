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
    """Every file or folder of models and data that the run reads; without its own, and the endpoint's keys."""
    models = {
        "model.policy": config.model.policy,
        "model.reference": config.model.reference if config.reads_reference else None,
    }
    found = [NamedPath(field, str(path)) for field, path in models.items() if path is not None]
    if config.prompts.heldout is not None:
        found.append(NamedPath("prompts.heldout", config.prompts.heldout, tuple(config.evaluated)))
    if config.offline.path is not None:
        return [*found, NamedPath("offline.path", config.offline.path, tuple(config.languages.codes))]
    return found + _sampled(config)


def _sampled(config: Config) -> list[NamedPath]:
    """What a run reads that samples: prompts, and what makes, scores and joins their answers."""
    codes = tuple(config.languages.codes)
    single = {
        **{f"{section}.model": one.model for section, one in config.reward.models.items()},
        **{
            f"{name}.files.{code}": path
            for name, one in config.reward.words.items()
            for code, path in one.files.items()
        },
        "anchor.path": config.anchor.path if config.anchor.pairs_per_round else None,
        "candidates.untranslated_ids": config.candidates.untranslated_ids,
    }
    by_language = {
        "prompts.train": (config.prompts.train, codes),
        **{
            f"candidates.sources.{place}.path": (source.path, tuple(source.languages) or codes)
            for place, source in enumerate(config.candidates.sources)
            if isinstance(source, FileSource)
        },
    }
    found = [NamedPath(field, str(path)) for field, path in single.items() if path is not None]
    return found + [NamedPath(field, text, of) for field, (text, of) in by_language.items() if text is not None]
