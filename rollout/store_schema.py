"""The journal's tables, and rows to and from records."""

from __future__ import annotations

import json
import math

from configs.json_types import Row
from rollout.records import Candidate, CandidateKey, Message, Pair, SampleGroup, Score, Turns
from rollout.token_ids import TokenIds

SCHEMA_VERSION = 2
NO_VERSION = -1  # in the column weight_version: no policy of the run wrote it

KEY_COLUMNS = ("round", "prompt_id", "language", "source", "origin", "sample")
CANDIDATE_COLUMNS = (
    *KEY_COLUMNS,
    "chunk_id",
    "text",
    "token_ids",
    "finish_reason",
    "weight_version",
    "gate",
    "detected_language",
    "translation",
    "logprobs",
    "model",
)
SCORE_COLUMNS = (*KEY_COLUMNS, "chunk_id", "reward", "parts")
PAIR_COLUMNS = (
    "id",
    "round",
    "prompt_id",
    "language",
    "source",
    "prompt",
    "chosen",
    "rejected",
    "chosen_score",
    "rejected_score",
    "weight_version",
    "chosen_key",
    "rejected_key",
    "reference_chosen",
    "reference_rejected",
)
GROUP_COLUMNS = (
    "id",
    "round",
    "prompt_id",
    "language",
    "prompt",
    "completions",
    "rewards",
    "weight_version",
    "keys",
    "reference",
)

# Every column of every table but the checksum, in the order in which the checksum takes them; and what names a row.
TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "chunks": ("round", "stage", "chunk_id", "rows"),
    "candidates": CANDIDATE_COLUMNS,
    "scores": SCORE_COLUMNS,
    "pairs": (*PAIR_COLUMNS, "consumed_version"),
    "groups": (*GROUP_COLUMNS, "consumed_version"),
    "rounds": ("round", "state", "data"),
    "evaluations": ("round", "data"),
}
KEYS: dict[str, tuple[str, ...]] = {
    "meta": ("key",),
    "chunks": ("round", "stage", "chunk_id"),
    "candidates": KEY_COLUMNS,
    "scores": KEY_COLUMNS,
    "pairs": ("id",),
    "groups": ("id",),
    "rounds": ("round",),
    "evaluations": ("round",),
}

_KEY = """round INTEGER NOT NULL, prompt_id TEXT NOT NULL, language TEXT NOT NULL, source TEXT NOT NULL,
    origin TEXT NOT NULL, sample INTEGER NOT NULL"""
_PRIMARY = f"PRIMARY KEY ({', '.join(KEY_COLUMNS)})"

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (round INTEGER NOT NULL, stage TEXT NOT NULL, chunk_id TEXT NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (round, stage, chunk_id)) WITHOUT ROWID;
CREATE TABLE candidates ({_KEY}, chunk_id TEXT NOT NULL, text TEXT NOT NULL, token_ids BLOB NOT NULL,
    finish_reason TEXT NOT NULL, weight_version INTEGER NOT NULL, gate TEXT NOT NULL, detected_language TEXT,
    translation TEXT, {_PRIMARY}) WITHOUT ROWID;
CREATE INDEX candidates_chunk ON candidates (round, chunk_id);
CREATE TABLE scores ({_KEY}, chunk_id TEXT NOT NULL, reward REAL NOT NULL, parts TEXT NOT NULL, {_PRIMARY}) WITHOUT
    ROWID;
CREATE TABLE pairs (id TEXT PRIMARY KEY, round INTEGER NOT NULL, prompt_id TEXT NOT NULL, language TEXT NOT NULL,
    source TEXT NOT NULL, prompt TEXT NOT NULL, chosen TEXT NOT NULL, rejected TEXT NOT NULL,
    chosen_score REAL NOT NULL, rejected_score REAL NOT NULL, weight_version INTEGER NOT NULL, chosen_key TEXT,
    rejected_key TEXT, reference_chosen REAL, reference_rejected REAL, consumed_version INTEGER) WITHOUT ROWID;
CREATE INDEX pairs_round ON pairs (round);
CREATE TABLE rounds (round INTEGER PRIMARY KEY, state TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE evaluations (round INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE groups (id TEXT PRIMARY KEY, round INTEGER NOT NULL, prompt_id TEXT NOT NULL, language TEXT NOT NULL,
    prompt TEXT NOT NULL, completions TEXT NOT NULL, rewards TEXT NOT NULL, weight_version INTEGER NOT NULL,
    keys TEXT NOT NULL, reference TEXT, consumed_version INTEGER) WITHOUT ROWID;
CREATE INDEX groups_round ON groups (round);
"""
# What version 2 adds; a new journal is made by both, so that old and new ones have the same tables.
ADDED_IN_2 = (
    "ALTER TABLE candidates ADD COLUMN logprobs BLOB",
    "ALTER TABLE candidates ADD COLUMN model TEXT",
    *(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER" for table in TABLES),
)


def candidate_row(candidate: Candidate, chunk_id: str) -> Row:
    """A row of ``candidates``; token ids are little-endian 32-bit."""
    return (
        *key_row(candidate.key),
        chunk_id,
        candidate.text,
        TokenIds.of(candidate.token_ids).data,
        candidate.finish_reason,
        NO_VERSION if candidate.weight_version is None else candidate.weight_version,
        candidate.gate,
        candidate.detected_language,
        candidate.translation,
        candidate.logprobs,
        candidate.model,
    )


def candidate_of(row: Row) -> Candidate:
    """The candidate of a row of ``CANDIDATE_COLUMNS``."""
    text, blob, finish, version, *rest = row[7:]
    ids = TokenIds.from_bytes(blob)
    return Candidate(CandidateKey(*row[:6]), text, ids, finish, None if version == NO_VERSION else version, *rest)


def score_row(score: Score, chunk_id: str) -> Row:
    """A row of ``scores``. SQLite would store NaN as NULL, so it is refused by name."""
    if not math.isfinite(score.reward):
        raise ValueError(f"{score.key}: reward {score.reward} is not finite")
    return (*key_row(score.key), chunk_id, float(score.reward), dump(score.parts))


def score_of(row: Row) -> Score:
    """The score of a row of ``SCORE_COLUMNS``."""
    return Score(CandidateKey(*row[:6]), row[7], json.loads(row[8]))


def pair_row(pair: Pair) -> Row:
    """A row of ``pairs``. A prompt of several turns is JSON in a BLOB, so that no text can be taken for one."""
    values = [getattr(pair, column) for column in PAIR_COLUMNS]
    for name in ("chosen_score", "rejected_score"):
        values[PAIR_COLUMNS.index(name)] = float(getattr(pair, name))
    values[PAIR_COLUMNS.index("prompt")] = _prompt_column(pair.prompt)
    for name in ("chosen_key", "rejected_key"):
        key = getattr(pair, name)
        values[PAIR_COLUMNS.index(name)] = None if key is None else json.dumps(key_row(key), ensure_ascii=False)
    return tuple(values)


def pair_of(row: Row) -> Pair:
    """The pair of a row that begins with ``PAIR_COLUMNS``."""
    fields = dict(zip(PAIR_COLUMNS, row[: len(PAIR_COLUMNS)], strict=True))
    fields["prompt"] = _prompt_of(fields["prompt"])
    for name in ("chosen_key", "rejected_key"):
        if fields[name] is not None:
            fields[name] = CandidateKey(*json.loads(fields[name]))
    return Pair(**fields)


def _prompt_column(prompt: Turns) -> str | bytes:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False).encode()


def _prompt_of(value: str | bytes) -> Turns:
    return value if isinstance(value, str) else tuple(Message(*turn) for turn in json.loads(value))


def group_row(group: SampleGroup) -> Row:
    """A row of ``groups``; completions, rewards, keys and reference are JSON lists."""
    if not all(math.isfinite(reward) for reward in group.rewards):
        raise ValueError(f"group {group.id}: a reward is not finite")
    values = {column: getattr(group, column) for column in GROUP_COLUMNS}
    values["prompt"] = _prompt_column(group.prompt)
    values["completions"] = dump(group.completions)
    values["rewards"] = dump(group.rewards)
    values["keys"] = dump([key_row(key) for key in group.keys])
    values["reference"] = None if group.reference is None else dump(group.reference)
    return tuple(values.values())


def group_of(row: Row) -> SampleGroup:
    """The group of a row that begins with ``GROUP_COLUMNS``."""
    fields = dict(zip(GROUP_COLUMNS, row[: len(GROUP_COLUMNS)], strict=True))
    fields["prompt"] = _prompt_of(fields["prompt"])
    for name in ("completions", "rewards"):
        fields[name] = tuple(json.loads(fields[name]))
    fields["keys"] = tuple(CandidateKey(*key) for key in json.loads(fields["keys"]))
    if fields["reference"] is not None:
        fields["reference"] = tuple(json.loads(fields["reference"]))
    return SampleGroup(**fields)


def key_row(key: CandidateKey) -> tuple[int, str, str, str, str, int]:
    """The six columns of a natural key."""
    return (key.round, key.prompt_id, key.language, key.source, key.origin, key.sample)


def dump(value: object) -> str:
    """JSON with sorted keys, so that equal values are equal texts; NaN is refused."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
