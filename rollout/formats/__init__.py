"""Data as it lies about: an adapter for each form of rows (`forms`), over tables in files of any kind (`files`)."""
