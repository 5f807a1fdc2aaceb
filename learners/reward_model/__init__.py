"""Reward models: the text that they read, and their training from preference pairs."""
