"""What is shown and exported of a run: screen, metrics rows, Prometheus."""
