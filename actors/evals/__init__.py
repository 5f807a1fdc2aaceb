"""`isogloss eval`: generation and figures without training."""
