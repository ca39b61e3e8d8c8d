"""Evaluation: quality and cost, by the same protocol everywhere."""
