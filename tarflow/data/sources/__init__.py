"""Data sets: a file for each."""
