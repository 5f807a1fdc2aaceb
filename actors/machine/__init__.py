"""What is known of the machine, and what on it would go wrong: `isogloss doctor`."""
