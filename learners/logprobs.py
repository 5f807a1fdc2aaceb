"""Log-probabilities of completion tokens, without ever holding logits of all positions.

The hidden states at the predicting positions go through the output layer in tiles; the softmax is in float32. The
backward pass recomputes each tile, so the peak is a tile instead of ``tokens x vocabulary``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.errors import UserError
from learners import attention, varlen
from learners.packing import PackedBatch, Segment, pack

# Logits that are held at once: 16 MiB in float32 on a CPU, whose caches they should stay near, and 256 MiB on a GPU,
# which would else wait for the next small kernel. And the least width of a tile.
_TILE = 2**22
_GPU_TILE = 2**26
_LEAST_COLUMNS = 1024


class _TiledLogprob(torch.autograd.Function):
    """``log_softmax(hidden @ weight.T)`` at the targets, tile by tile, with a recomputing backward.

    A tile is a block of positions by a block of the vocabulary. Blocks of the vocabulary keep a tile small however
    large the vocabulary is, and each row of the weight's gradient is then written once for all positions of a block.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
    ) -> Tensor:
        ctx.chunk, ctx.softcap, ctx.kept = chunk, softcap, None
        picked = torch.empty(targets.shape[0], dtype=torch.float32, device=hidden.device)
        normaliser = torch.full_like(picked, -torch.inf)  # log of the summed exponentials of the blocks so far
        for rows in _blocks(targets.shape[0], chunk):
            for columns in _blocks(weight.shape[0], _columns(rows, hidden.device)):
                logits = _logits(hidden[rows], weight[columns], None if bias is None else bias[columns], softcap)
                local, inside = _within(targets[rows], columns)
                picked[rows] = torch.where(inside, logits.gather(1, local[:, None])[:, 0], picked[rows])
                top = torch.maximum(normaliser[rows], logits.amax(dim=1))
                here = logits.sub_(top[:, None]).exp_().sum(dim=1)
                normaliser[rows] = top + (here + (normaliser[rows] - top).exp()).log()
                if logits.shape == (*targets.shape, weight.shape[0]) and softcap is None and ctx.needs_input_grad[0]:
                    # All of it is one tile: kept, since computing it again would take no less memory.
                    ctx.kept = logits, top
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        return picked - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        _, weight_wanted, bias_wanted, *_ = ctx.needs_input_grad
        # Summed over tiles, so in float32: bfloat16 would lose small contributions.
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        # Written once a block of the vocabulary: with hundreds of thousands of rows even filling it with zeros counts.
        grad_weight = torch.empty_like(weight) if weight_wanted else None
        grad_bias = torch.empty_like(bias) if bias_wanted else None
        rows_of = list(_blocks(targets.shape[0], ctx.chunk))
        for columns in _blocks(weight.shape[0], _columns(rows_of[0], hidden.device)):
            part = weight[columns]
            by_weight = None if grad_weight is None else _Sum(grad_weight[columns], len(rows_of))
            by_bias = torch.zeros(part.shape[0], dtype=torch.float32, device=part.device)
            for rows in rows_of:
                cap_slope = None
                # d logprob / d logits = onehot - softmax
                if ctx.kept is not None:
                    (slope, top), ctx.kept = ctx.kept, None
                    slope.mul_((-grad * (top - normaliser).exp())[:, None])
                else:
                    logits = _logits(hidden[rows], part, None if bias is None else bias[columns], ctx.softcap)
                    cap_slope = None if ctx.softcap is None else 1 - (logits / ctx.softcap) ** 2
                    slope = logits.sub_(normaliser[rows, None]).exp_().mul_(-grad[rows, None])
                local, inside = _within(targets[rows], columns)
                slope.scatter_add_(1, local[:, None], (grad[rows] * inside)[:, None])
                if cap_slope is not None:
                    slope *= cap_slope
                if grad_bias is not None:
                    by_bias += slope.sum(dim=0)
                slope = slope.to(weight.dtype)
                _add_product(grad_hidden[rows], slope, part)
                if by_weight is not None:
                    by_weight.add(slope.T, hidden[rows])
            if by_weight is not None:
                by_weight.write()
            if grad_bias is not None:
                grad_bias[columns] = by_bias
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None, None


class _Sum:
    """A sum of matrix products, kept in float32 where there are several, and written to its place once."""

    def __init__(self, place: Tensor, products: int) -> None:
        self._place = place
        direct = products == 1 or place.dtype == torch.float32
        self._total = place if direct else torch.empty(place.shape, dtype=torch.float32, device=place.device)
        self._is_empty = True

    def add(self, left: Tensor, right: Tensor) -> None:
        """Count in ``left @ right``."""
        if not self._is_empty:
            _add_product(self._total, left, right)
        elif self._total.dtype == right.dtype:
            torch.mm(left, right, out=self._total)
        else:
            self._total.copy_(left @ right)
        self._is_empty = False

    def write(self) -> None:
        """Put the sum where it belongs."""
        if self._total is not self._place:
            self._place.copy_(self._total)


def _blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _columns(rows: slice, device: torch.device) -> int:
    return max(_LEAST_COLUMNS, (_TILE if device.type == "cpu" else _GPU_TILE) // (rows.stop - rows.start))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _within(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Targets counted from the first column, kept inside the block; and whether they are in it."""
    local = targets - columns.start
    last = columns.stop - columns.start - 1
    return local.clamp(0, last), (local >= 0) & (local <= last)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, multiplied in their type and summed in that of ``total``."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class LogprobHead(nn.Module):
    """The output layer of a model as a function to log-probabilities.

    It shares the weight of the model's own output layer. It is a module, called once a forward pass, because
    ZeRO-3 gathers a module's weights around its call: chunks must not be calls of their own, or ranks with
    different numbers of chunks would wait for each other forever.
    """

    def __init__(self, output: nn.Linear, chunk: int, softcap: float | None) -> None:
        super().__init__()
        self.weight = output.weight
        self.bias = output.bias
        self.chunk = chunk
        self.softcap = softcap

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of each target: hidden ``[N, H]``, targets ``[N]`` -> ``[N]`` float32, nats."""
        result: Tensor = _TiledLogprob.apply(hidden, self.weight, self.bias, targets, self.chunk, self.softcap)
        return result


class LogprobModel(nn.Module):
    """A causal language model whose forward pass turns a packed batch into completion log-probabilities.

    Args:
        language_model: A Transformers causal model with a linear output layer.
        chunk: Positions whose logits are held at once.

    Raises:
        UserError: The model's logits are not ``softcap(linear(hidden))``, found out by trying.
    """

    def __init__(self, language_model: PreTrainedModel, chunk: int) -> None:
        super().__init__()
        self.language_model = language_model
        output = language_model.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise UserError(f"{type(language_model).__name__}: has no linear output layer; use a causal text model")
        settings = language_model.config.to_dict()
        self.head = LogprobHead(output, chunk, settings.get("final_logit_softcapping"))
        self.layer_types: tuple[str, ...] = tuple(settings.get("layer_types") or ())
        self.window: int | None = settings.get("sliding_window")
        embedding = language_model.get_input_embeddings()
        if isinstance(embedding, nn.Embedding) and embedding.weight is output.weight and output.weight.is_cpu:
            # Only the rows of tokens that occur are added to the output layer's gradient, not a whole vocabulary.
            embedding.sparse = True
        takes_others = language_model._can_set_attn_implementation()  # models with an attention of their own get a mask
        # FlashAttention over runs on GPUs, without it a dense mask.
        self.by_runs = (
            varlen.takes(language_model.device, language_model.dtype)
            and takes_others
            and settings.get("attn_logit_softcapping") is None
        )
        self._by_segment = takes_others and not self.by_runs and language_model.device.type == "cpu"
        if self.by_runs or self._by_segment:
            language_model.set_attn_implementation(varlen.NAME if self.by_runs else attention.NAME)
        self._check_head()

    def _masks(self, batch: PackedBatch) -> Tensor | dict[str, Tensor]:
        """The mask in the form that the model takes: one for all layers, or one for each type of layer."""
        kinds = set(self.layer_types)
        if not kinds:  # no list of types: a window, where there is one, holds in every layer (Mistral)
            return self._mask(batch, self.window)
        unknown = kinds - {"full_attention", "sliding_attention"}
        if unknown:
            raise UserError(f"{type(self.language_model).__name__}: layers of type {sorted(unknown)} cannot be packed")
        masks = {kind: self._mask(batch, self.window if kind == "sliding_attention" else None) for kind in kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, batch: PackedBatch, window: int | None) -> Tensor:
        if self.by_runs and batch.runs is not None:
            return varlen.RunsMask.of(batch.runs, window)
        if self._by_segment:
            return attention.PackedMask.of(attention.layout_of(batch, window))
        return batch.attention_mask(window)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Log-probabilities of ``batch.targets``, ``[N]`` float32, nats."""
        if self._by_segment:
            batch = batch.without_padding()
        output = self.language_model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=self._masks(batch),
            use_cache=False,
        )
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, batch.predict_at)
        result: Tensor = self.head(hidden, batch.targets)
        return result

    @torch.no_grad()
    def _check_head(self) -> None:
        """Compare with the model's own logits on a few tokens: other logits would pass silently."""
        ids = [index % self.head.weight.shape[0] for index in range(3, 11)]
        batch = pack([Segment(tuple(ids[:2]), (tuple(ids[2:]),))], 64)[0].to(self.head.weight.device)
        ours = self(batch)
        # The same positions, so that matrix products of the same shapes round alike.
        inputs = torch.tensor([ids[:-1]], device=ours.device)
        logits = self.language_model(input_ids=inputs, use_cache=False).logits[0, 1:].float()
        theirs = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        # bfloat16 keeps 8 bits of a logit, and of all that it was computed from.
        coarse = max(0.25, float(logits.abs().max()) * 2**-6)
        tolerance = 1e-3 if self.head.weight.dtype == torch.float32 else coarse
        if float((ours - theirs).abs().max()) > tolerance:
            raise UserError(
                f"{type(self.language_model).__name__}: its logits are not those of a plain or soft-capped "
                "output layer, or its attention cannot be packed; this model is not supported"
            )


@torch.no_grad()
def segment_logprobs(
    model: nn.Module, segments: Sequence[Segment], tokens_per_micro_batch: int, device: torch.device
) -> list[list[Tensor]]:
    """Per-token log-probabilities of every completion, on the CPU, in the order of ``segments``.

    Args:
        model: A ``LogprobModel``, or a DeepSpeed engine around one.
        segments: What to score.
        tokens_per_micro_batch: Positions of one forward pass; a segment of several completions that has more is laid
            out over several copies of its prompt.
        device: Where the model computes.
    """
    result: list[list[Tensor]] = [[torch.empty(0)] * len(segment.completions) for segment in segments]
    for batch in pack(segments, tokens_per_micro_batch, whole=False):
        values = model(batch.to(device)).cpu()
        for span in batch.spans:
            result[span.segment][span.completion] = values[span.start : span.stop]
    return result
