"""Prefix-shared packing: completions of one prompt share a single copy of it, and segments share rows.

A *segment* is a prompt and its completions. In a row its tokens are laid out as ``prompt, completion 1,
completion 2, ...``; position ids restart after the prompt for each completion, and the attention mask lets a
token see its own prompt and its own completion only. The last token of a completion is never an input: it is
only predicted. So a chosen/rejected pair costs ``p + c + r - 2`` tokens instead of ``2p + c + r``.

Rows are short (``ROW_TOKENS``) rather than as long as the token budget, because the attention of a row costs
the square of its length while a segment only looks at itself; a micro-batch is as many rows as the budget
holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learners.varlen import Runs, runs_of

# Rows are filled up to this many tokens, or up to the longest segment where that is longer.
ROW_TOKENS = 512

_PADDING = -1  # segment number of a padded position


@dataclass(frozen=True, slots=True)
class Segment:
    """A prompt and any number of completions of it, as token ids."""

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a segment needs a prompt of at least one token: it predicts the first of a completion")
        if not self.completions or any(not completion for completion in self.completions):
            raise ValueError("a segment needs completions of at least one token each")

    @property
    def tokens(self) -> int:
        """Input positions that the segment takes in a row."""
        return len(self.prompt_ids) + sum(len(completion) - 1 for completion in self.completions)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion: what a padded row would be as long as."""
        return len(self.prompt_ids) + max(len(completion) for completion in self.completions)

    @property
    def targets(self) -> int:
        """Predicted tokens: those of all completions."""
        return sum(len(completion) for completion in self.completions)

    def pieces(self, budget: int) -> list[tuple[int, Segment]]:
        """The segment over several copies of its prompt, so that each takes at most ``budget`` positions.

        Completions keep their order; a copy has at least one, however long that is.

        Returns:
            The number of a copy's first completion, and the copy.
        """
        prompt = len(self.prompt_ids)
        found: list[tuple[int, list[tuple[int, ...]]]] = []
        used = 0
        for number, completion in enumerate(self.completions):
            if not found or used + len(completion) - 1 > budget:
                found.append((number, []))
                used = prompt
            found[-1][1].append(completion)
            used += len(completion) - 1
        return [(first, Segment(self.prompt_ids, tuple(part))) for first, part in found]


@dataclass(frozen=True, slots=True)
class Span:
    """Where the log-probabilities of one completion lie in a batch's flat result."""

    segment: int  # index into the list that was packed
    completion: int  # index into the segment's completions
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward pass: ``R`` rows of ``T`` positions that predict ``N`` tokens."""

    input_ids: Tensor  # [R, T] int64
    position_ids: Tensor  # [R, T] int64
    segment_ids: Tensor  # [R, T] int64; -1 is padding
    branch_ids: Tensor  # [R, T] int64; 0 is the prompt, k the k-th completion
    predict_at: Tensor  # [N] int64, flat index into [R * T] of the position whose output predicts the target
    targets: Tensor  # [N] int64
    spans: tuple[Span, ...]
    runs: Runs | None = None  # on a GPU

    @property
    def tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.segment_ids != _PADDING).sum())

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on ``device``; from the CPU to a GPU it gets its runs."""
        runs = runs_of(self.segment_ids, self.branch_ids) if device.type == "cuda" and self.runs is None else self.runs
        return PackedBatch(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            segment_ids=self.segment_ids.to(device),
            branch_ids=self.branch_ids.to(device),
            predict_at=self.predict_at.to(device),
            targets=self.targets.to(device),
            spans=self.spans,
            runs=None if runs is None else runs.to(device),
        )

    def renumbered(self, members: Sequence[int]) -> PackedBatch:
        """The same batch with its spans counted in ``members``: segment ``members[k]`` becomes ``k``."""
        place = {segment: number for number, segment in enumerate(members)}
        return replace(self, spans=tuple(replace(span, segment=place[span.segment]) for span in self.spans))

    def renamed(self, origin: Mapping[int, tuple[int, int]]) -> PackedBatch:
        """The same batch with its spans counted in what was cut up: by segment, its origin and the first completion."""
        spans = (
            replace(span, segment=origin[span.segment][0], completion=span.completion + origin[span.segment][1])
            for span in self.spans
        )
        return replace(self, spans=tuple(spans))

    def attention_mask(self, window: int | None = None) -> Tensor:
        """Who sees whom: ``[R, 1, T, T]`` bool, True where the query (third axis) attends to the key.

        Args:
            window: Sliding window in tokens, counted in positions: a query sees itself and the ``window - 1``
                positions before it. None is full causal attention.
        """
        return visible(self.segment_ids, self.branch_ids, self.position_ids, window)

    def without_padding(self) -> PackedBatch:
        """The same batch in one row without padding: ``R`` is 1, and ``T`` is ``tokens``."""
        kept = self.segment_ids.flatten() != _PADDING
        place = kept.cumsum(0) - 1
        ids, positions, segments, branches = (
            tensor.flatten()[kept][None]
            for tensor in (self.input_ids, self.position_ids, self.segment_ids, self.branch_ids)
        )
        return PackedBatch(ids, positions, segments, branches, place[self.predict_at], self.targets, self.spans)


def visible(segment: Tensor, branch: Tensor, position: Tensor, window: int | None = None) -> Tensor:
    """Who sees whom, ``[R, 1, T, T]`` bool, from segment, branch and position of each place, ``[R, T]`` each."""
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    same_segment = segment[:, :, None] == segment[:, None, :]
    reachable = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    mask = causal & same_segment & reachable
    if window is not None:
        mask &= (position[:, :, None] - position[:, None, :]) < window
    # A padded position sees itself alone: a row of the softmax without any key would be NaN.
    mask &= (segment != _PADDING)[:, :, None]
    mask |= torch.eye(length, dtype=torch.bool, device=segment.device)
    return mask[:, None]


def pack(segments: Sequence[Segment], tokens_per_micro_batch: int, whole: bool = True) -> list[PackedBatch]:
    """Lay segments out in micro-batches of at most ``tokens_per_micro_batch`` positions, padding included.

    Rows are filled first-fit by decreasing length; equal lengths keep their order, so the layout is a
    function of the input alone. A segment that is longer than the budget gets a micro-batch of its own.

    Args:
        segments: To lay out.
        tokens_per_micro_batch: The budget.
        whole: Whether a segment above the budget stays in one piece. If not, its completions are laid out over several
            copies of its prompt; only a prompt with a single completion can then exceed the budget.
    """
    copies = [
        (index, *piece)
        for index, one in enumerate(segments)
        for piece in (
            [(0, one)] if whole or one.tokens <= tokens_per_micro_batch else one.pieces(tokens_per_micro_batch)
        )
    ]
    parts = [segment for _, _, segment in copies]
    order = sorted(range(len(parts)), key=lambda index: (-parts[index].tokens, index))
    batches: list[list[list[int]]] = [[[i]] for i in order if parts[i].tokens > tokens_per_micro_batch]
    fitting = [i for i in order if parts[i].tokens <= tokens_per_micro_batch]
    if fitting:
        row_tokens = max(parts[fitting[0]].tokens, min(tokens_per_micro_batch, ROW_TOKENS))
        rows = _fill_rows(parts, fitting, row_tokens)
        per_batch = max(1, tokens_per_micro_batch // row_tokens)
        batches += [rows[start : start + per_batch] for start in range(0, len(rows), per_batch)]
    built = [_build(parts, rows) for rows in batches]
    if len(copies) == len(segments):
        return built
    return [batch.renamed({number: copy[:2] for number, copy in enumerate(copies)}) for batch in built]


def _fill_rows(segments: Sequence[Segment], order: Sequence[int], row_tokens: int) -> list[list[int]]:
    rows: list[list[int]] = []
    free: list[int] = []
    for index in order:
        need = segments[index].tokens
        row = next((row for row, space in enumerate(free) if space >= need), None)
        if row is None:
            rows.append([index])
            free.append(row_tokens - need)
        else:
            rows[row].append(index)
            free[row] -= need
    return rows


def _build(segments: Sequence[Segment], rows: Sequence[Sequence[int]]) -> PackedBatch:
    length = max(sum(segments[index].tokens for index in row) for row in rows)
    inputs, positions, owners, branches = [], [], [], []
    predict_at: list[int] = []
    targets: list[int] = []
    spans: list[Span] = []
    for row_number, row in enumerate(rows):
        ids: list[int] = []
        position: list[int] = []
        owner: list[int] = []
        branch: list[int] = []
        for index in row:
            segment = segments[index]
            start = row_number * length + len(ids)
            prompt = len(segment.prompt_ids)
            ids += segment.prompt_ids
            position += range(prompt)
            branch += [0] * prompt
            for number, completion in enumerate(segment.completions):
                first_input = row_number * length + len(ids)
                spans.append(Span(index, number, len(targets), len(targets) + len(completion)))
                predict_at += [start + prompt - 1, *range(first_input, first_input + len(completion) - 1)]
                targets += completion
                ids += completion[:-1]
                position += range(prompt, prompt + len(completion) - 1)
                branch += [number + 1] * (len(completion) - 1)
            owner += [index] * segment.tokens
        padding = length - len(ids)
        inputs.append(ids + [0] * padding)
        positions.append(position + [0] * padding)
        owners.append(owner + [_PADDING] * padding)
        branches.append(branch + [0] * padding)
    return PackedBatch(
        input_ids=torch.tensor(inputs),
        position_ids=torch.tensor(positions),
        segment_ids=torch.tensor(owners),
        branch_ids=torch.tensor(branches),
        predict_at=torch.tensor(predict_at),
        targets=torch.tensor(targets),
        spans=tuple(spans),
    )
