"""Rows: reading them, keeping them as batches, and what makes them admissible."""
