"""`attentune tasks`: the tasks that there are, with their options."""

from __future__ import annotations

from attentune.cli.parsing import CommandOptions

EXAMPLES = """
    attentune tasks
    attentune tasks --json
"""


class Options(CommandOptions):
    """List the tasks of `attentune train --task`: what each does, and its options with their defaults."""


def run(options: Options) -> int:
    """Print the list."""
    from attentune.cli.console import print_json
    from attentune.cli.task_list import described, shown

    found = described()
    if options.json_:
        print_json(found)
    else:
        print(shown(found), end="")
    return 0
