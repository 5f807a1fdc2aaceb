"""An objective of your own: the squared distance of the log-ratios' difference to a margin.

isogloss train demo.yaml learner.objective=own_objective:squared "learner.objective_options={margin: 4}"
"""

from __future__ import annotations


def squared(pairs, settings, *, margin=1.0):
    """The loss of each pair, [P]; see learners.objectives.registry.ObjectiveFunction."""
    return settings.beta * (pairs.ratio_difference - margin) ** 2
