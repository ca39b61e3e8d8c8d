"""The study: its space, its strategy, its six stages, and the ledger and report of what it found."""
