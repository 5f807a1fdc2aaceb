"""The reward worker: gates, and scores of every kind that needs a model or a judge."""
