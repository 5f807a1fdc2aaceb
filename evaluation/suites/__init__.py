"""Evaluation suites: what ``isogloss eval`` asks, the answers' cache, and the figures that come out."""
