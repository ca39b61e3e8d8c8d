"""Files to text to tokens to batches."""
