"""Chaos: a short run is killed at random moments, damaged, resumed, and compared with one that nothing disturbed."""
