"""Training: one loop, its optimizers, schedules, checkpoints and trackers."""
