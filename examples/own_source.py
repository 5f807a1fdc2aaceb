"""A source of your own: it repeats the prompt, an answer that is to be rejected.

isogloss train demo "candidates.sources=[{kind: policy}, {kind: custom, name: parrot, function: own_source:parrot}]"
"""

from __future__ import annotations


def parrot(prompts, samples, *, words=12):
    """One text a prompt; see judges.own_source.SourceFunction."""
    return [" ".join(prompt.text.split()[: words + number]) for prompt, number in zip(prompts, samples, strict=True)]
