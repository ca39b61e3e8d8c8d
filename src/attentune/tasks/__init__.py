"""One file a task: what it reads, how examples become numbers, its head, its metrics, what a prediction looks like."""
