"""Objectives: each one pure function over log-probabilities, chosen by ``learner.objective``.

``inputs`` has what they take, ``pairs`` the DPO family, ``groups`` RLOO, ``switches`` its kin, ``registry`` what is
known by which name, ``trial`` how one of the user's own is tried.
"""
