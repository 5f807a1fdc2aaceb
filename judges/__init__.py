"""Judges: which of two answers is better, asked of a language model in both orders. ``records`` says how to call it."""

from judges.pairwise import Judge, check_endpoint, compare
from judges.records import Item, Tally, Usage, Verdict, tally

__all__ = ["Item", "Judge", "Tally", "Usage", "Verdict", "check_endpoint", "compare", "tally"]
