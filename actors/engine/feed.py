"""One engine fed without a pause: requests of the next group enter as soon as there is room, and a group comes back
when its last request is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Requests that are admitted for each that the engine can decode at once: enough that a slot is never free while there
# is work, few enough that a long feed does not lie in the engine whole.
_AHEAD = 2


def sample(
    engine: Any, groups: Iterable[Sequence[tuple[Sequence[int], Any]]], slots: int, adapter: Any = None
) -> Iterator[tuple[int, list[Any]]]:
    """Complete all requests of all groups.

    When a request enters depends on the requests before it and on nothing else, so that the same groups give the same
    batches, step by step.

    Args:
        engine: vLLM's synchronous engine (``LLM.llm_engine``), with no other request.
        groups: Requests as (prompt ids, sampling parameters); a group is asked for when there is room for it.
        slots: Sequences that the engine decodes at once.
        adapter: LoRA request that goes with each.

    Yields:
        Number of a group, from 0 in the order given, with vLLM's completions in the order of its requests; in the order
        in which groups are done. Requests that are unfinished when the consumer leaves are aborted.
    """
    pending = enumerate(groups)
    done: dict[int, list[Any]] = {}
    missing: dict[int, int] = {}
    unfinished: dict[str, tuple[int, int]] = {}
    more = True
    try:
        while True:
            while more and len(unfinished) < _AHEAD * slots:
                number, group = next(pending, (-1, ()))
                more = number >= 0
                if more:
                    done[number], missing[number] = [None] * len(group), len(group)
                for index, (prompt, params) in enumerate(group):
                    name = f"{number}/{index}"
                    engine.add_request(name, {"prompt_token_ids": list(prompt)}, params, lora_request=adapter)
                    unfinished[name] = number, index
                if more and not group:
                    yield number, done.pop(number)
            if not unfinished:
                return
            for output in engine.step():
                if not output.finished:
                    continue
                number, index = unfinished.pop(output.request_id)
                done[number][index] = output.outputs[0]
                missing[number] -= 1
                if not missing[number]:
                    yield number, done.pop(number)
    finally:
        if unfinished:
            engine.abort_request(list(unfinished))
