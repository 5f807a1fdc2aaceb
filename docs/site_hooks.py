"""What mkdocs is told beyond mkdocs.yml: pages of files outside docs/, and an API page for each package of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "rollout", "evaluation", "judges", "learners", "actors", "serving")
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "worlds/README.md": "worlds.md"}
_LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    lines = ["# API\n", "Generated from the docstrings; a page for each package.\n"]
    for package in _packages():
        name = ".".join(package.relative_to(ROOT).parts)
        lines.append(f"- [`{name}`]({name}.md): {_summary(package / '__init__.py')}")
        files.append(File.generated(config, f"api/{name}.md", content=_page(name, package)))
    files.append(File.generated(config, "api/index.md", content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between the repository's files, as links between pages; what has no page stays as text."""
    source = next((path for path, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda found: _link(found, Path(source).parent, files), markdown)


def _link(found: re.Match[str], folder: Path, files: Files) -> str:
    target = (ROOT / folder / found["target"]).resolve()
    if ROOT not in target.parents:
        return found.group()
    path = target.relative_to(ROOT).as_posix()
    page = OUTSIDE.get(path, path.removeprefix("docs/"))
    if files.get_file_from_path(page) is None:
        if not target.exists() and folder != Path("docs/api"):
            raise ValueError(f"{folder}: links to {found['target']}, which is not there")
        return "]()" if folder != Path("docs/api") else found.group()
    up = "../" if folder == Path("docs/api") else ""
    return f"]({up}{page}{found['anchor'] or ''})"


def _packages() -> list[Path]:
    found = [ROOT / room for room in ROOMS]
    found += [path.parent for room in found for path in room.rglob("__init__.py")]
    with_modules = {path for path in found if _modules(path)}
    return sorted(with_modules, key=lambda path: (ROOMS.index(path.relative_to(ROOT).parts[0]), path))


def _modules(package: Path) -> list[Path]:
    return sorted(path for path in package.glob("*.py") if path.stem != "__init__")


def _summary(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def _page(name: str, package: Path) -> str:
    parts = [f"# {name}\n", _summary(package / "__init__.py") + "\n"]
    return "\n".join([*parts, *(f"::: {name}.{path.stem}\n" for path in _modules(package))])


class PlainReferences(griffe.Extension):
    """References in the form of Sphinx are shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
