"""Proof: the checks of every mechanism, kernel, dtype and layout that users and the test suite run alike."""
