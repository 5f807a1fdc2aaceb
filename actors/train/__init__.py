"""A run: driver, stages, journal, folder, resume."""
