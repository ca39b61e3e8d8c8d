"""`python -m attentune` is the command `attentune`."""

import sys

from attentune.cli import main

if __name__ == "__main__":
    sys.exit(main())
