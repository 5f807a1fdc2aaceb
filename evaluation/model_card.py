"""The model card of a run's policy: what each language gained, with intervals, from which data, by which config."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.json_types import Json, JsonMapping, JsonObject
from configs.load import load_run_config
from configs.reading import is_file, read_json
from configs.schema import Config
from configs.yaml12 import dump_yaml_value
from rollout.data_card import table_lines
from rollout.languages import DEFAULT_NAMES

# Of the config, what is of this machine and nobody else's business.
_LEFT_OUT = (
    "cluster", "serve", "run.dir", "run.min_free_disk_gb", "run.plugins", "run.inputs",
    "judge.base_url", "judge.api_key_env", "judge.cache", "candidates.cache",
)  # fmt: skip
_OF_ENDPOINTS = ("base_url", "api_key_env")
_SNAPSHOT = re.compile(r"(?:models|datasets)--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(/.*)?$")


def run_card(run: Path, version: int, repo: str) -> str:
    """The card of one version of a run.

    Args:
        run: Run folder.
        version: Round whose weights these are.
        repo: ``owner/name`` that it is for.

    Raises:
        UserError: Its config or summary cannot be read.
    """
    summary = None
    if is_file(run / "summary.json"):
        found = read_json(run / "summary.json", "summary of a run", "remove it: the card then has no figures")
        summary = found if isinstance(found, dict) and found.get("weight_version") == version else None
    return model_card(load_run_config(run), summary, version, repo)


def model_card(config: Config, summary: JsonMapping | None, version: int, repo: str) -> str:
    """The page, with the metadata that the Hub reads.

    Args:
        config: Of the run.
        summary: ``summary.json`` of these weights; None where there is none, or it is of others.
        version: Round whose weights these are.
        repo: ``owner/name``.
    """
    languages = list(config.languages.codes) or sorted((summary or {}).get("pairs_by_language", {}))
    base = _snapshot_name(str(config.model.policy))
    head = ["---", *_listed("language", languages), "library_name: transformers", "pipeline_tag: text-generation",
            *([] if base is None else [f"base_model: {_quoted(base)}"]),
            *_listed("tags", ["isogloss", "preference-alignment", config.learner.objective]), "---", ""]  # fmt: skip
    start = base or config.model.policy.name
    names = ", ".join(f"{DEFAULT_NAMES.get(code, code)} (`{code}`)" for code in languages) or "one language"
    release = importlib.metadata.version("isogloss")
    lines = [
        f"# {repo.partition('/')[2]}",
        "",
        f"`{start}` after {version} round(s) of preference alignment by isogloss {release}, run `{config.run.name}`, "
        f"seed {config.run.seed}. Languages: {names}.",
        "",
        *_figures(summary),
        *_data(config, summary),
        "## Config",
        "",
        "<details><summary>All fields but those of the machine (cluster, addresses, folders)</summary>",
        "",
        "```yaml",
        dump_yaml_value(_public(config)).rstrip(),
        "```",
        "",
        "</details>",
        "",
    ]
    return "\n".join([*head, *lines])


def _figures(summary: JsonMapping | None) -> list[str]:
    title = ["## Before and after", ""]
    if summary is None:
        return [*title, "These weights were not evaluated on held-out prompts at the end of a run.", ""]
    languages: JsonMapping = summary.get("languages", {})
    if not languages:
        return [*title, "The run had no held-out prompts.", ""]
    rows: list[Sequence[str]] = []
    for code, entry in languages.items():
        one, two = entry["start"], entry["end"]
        rows.append(
            (
                code,
                *(_percent(side["accuracy_greedy"]) for side in (one, two)),
                _interval(entry.get("greedy_delta_ci95")),
                *(_percent(side["accuracy_sampled"]) for side in (one, two)),
                _interval(entry.get("delta_ci95")),
                *(_percent(side["right_language"]) for side in (one, two)),
                *(_number(side["mean_length"]) for side in (one, two)),
            )
        )
    heads = ("language", "greedy, before", "after", "change, 95 %", "sampled, before", "after", "change, 95 %",
             "right language, before", "after", "characters, before", "after")  # fmt: skip
    return [
        *title,
        "Accuracy on the run's held-out prompts in %, changes in points with 95 % intervals (paired bootstrap over "
        "prompts), answers in the language that was asked for in %, and their mean length.",
        "",
        *table_lines(heads, rows),
    ]


def _data(config: Config, summary: JsonMapping | None) -> list[str]:
    rows: list[Sequence[str]] = []
    for field, value in (
        ("prompts.train", config.prompts.train),
        ("prompts.heldout", config.prompts.heldout),
        ("offline.path", config.offline.path),
        ("anchor.path", config.anchor.path),
    ):
        if value is not None:
            rows.append((f"`{field}`", f"`{_shown(str(value))}`"))
    pairs = (summary or {}).get("pairs_by_language")
    if pairs:
        rows.append(("pairs by language", ", ".join(f"{code} {count}" for code, count in pairs.items())))
    if config.offline.path is None:
        rows.append(("reward", f"`{config.reward.kind}`"))
    rows.append(("objective", f"`{config.learner.objective}`"))
    return ["## Data and method", "", *table_lines(("what", "which"), rows)]


def _public(config: Config) -> JsonObject:
    values: JsonObject = config.model_dump(mode="json", exclude_unset=True)
    for name in _LEFT_OUT:
        section, _, field = name.partition(".")
        if not field:
            values.pop(section, None)
        elif isinstance(values.get(section), dict):
            values[section].pop(field, None)
    for endpoint in values.get("endpoints", {}).values():
        for field in _OF_ENDPOINTS:
            endpoint.pop(field, None)
    return {name: _without_folders(value) for name, value in values.items() if value != {}}


def _without_folders(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return _shown(value) if isinstance(value, str) and value.startswith("/") and "\n" not in value else value


def _shown(path: str) -> str:
    """A path as others may read it: a name on the Hub, or its last two parts where it is absolute."""
    match = _SNAPSHOT.search(path)
    if match is not None:
        return f"hf:{match[1]}/{match[2]}@{match[3]}" + (f":{match[4][1:]}" if match[4] else "")
    return "/".join(Path(path).parts[-2:]) if path.startswith("/") else path


def _snapshot_name(path: str) -> str | None:
    match = _SNAPSHOT.search(path)
    return None if match is None else f"{match[1]}/{match[2]}"


def _listed(field: str, values: Iterable[str]) -> list[str]:
    found = list(values)
    # In quotes: Norwegian's code is a truth value to many readers of YAML.
    return [f"{field}:", *(f"- {_quoted(value)}" for value in found)] if found else []


def _quoted(text: str) -> str:
    return json.dumps(text)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
