"""Generation, figures and reward models without a run; `commands` for the command line."""
