"""`python -m attentune.kernels.native`: compile the core again, beside its source."""

import sys

from attentune.kernels.native.build import BuildError, build

try:
    print(f"compiled {build()}")  # noqa: T201 - a command
except BuildError as error:
    sys.exit(f"attentune: {error}")
