"""A real model on real prompts: does online training keep answers in the language that they were asked for in?"""

from pathlib import Path

LANGUAGES = ("en", "de", "es", "fr", "ru", "sw")
PROMPTS = Path(__file__).with_name("prompts")
