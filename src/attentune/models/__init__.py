"""Models from a `ModelSpec`, and their checkpoints."""
