"""What every config section shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LANGUAGE_PATTERN = r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"
LanguageCode = Annotated[str, Field(pattern=rf"^{LANGUAGE_PATTERN}$")]


class Section(BaseModel):
    """A config section: unknown keys are refused, values are immutable once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)
