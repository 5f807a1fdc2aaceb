"""A world folder of the first form is refused before anything reads from it: what a run over it shows is another thing.

In the first form the weaker languages erred at random; now they are wrong systematically, and prompts say about which
value (``worlds/README.md``).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown

_MANIFEST = "world.json"
_SINCE_SECOND = "crosslingual_heldout"  # a setting that every manifest of the second form has


def check_world(prompts: str) -> None:
    """Refuse prompts of a world of the first form.

    Args:
        prompts: A folder or path of prompts; one below ``WORLD/prompts`` belongs to that world.

    Raises:
        UserError: Names the command that builds the world again.
    """
    for folder in Path(prompts).parents:
        if (folder / "prompts") in Path(prompts).parents or folder / "prompts" == Path(prompts):
            settings, seed = _manifest(folder / _MANIFEST)
            if settings and _SINCE_SECOND not in settings:
                raise UserError(
                    f"{shown(folder)}: is a world of the first form, whose languages erred at random; build it again "
                    f"elsewhere: isogloss build-world --out {shlex.quote(f'{folder}-new')} --seed {seed}"
                )
            return


def _manifest(path: Path) -> tuple[dict[str, object], int]:
    """The settings and seed that a world was built with; nothing where there is no manifest of a world."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, 0
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict) or "language_files" not in found:
        return {}, 0
    seed = found.get("seed")
    return found["settings"], seed if isinstance(seed, int) else 0
