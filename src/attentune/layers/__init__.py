"""Modules: attention with its projections and states, feed-forward, norms, one layer."""
