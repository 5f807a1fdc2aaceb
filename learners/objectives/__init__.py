"""Objectives: each one pure function over log-probabilities, chosen by ``learner.objective``.

``inputs`` has what they take, ``pairs`` the DPO family, ``groups`` RLOO, ``registry`` what is known by which name.
"""
