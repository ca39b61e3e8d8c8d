"""The run-time type checker that the import hook of jaxtyping applies to every function of the package.

`Self` is let through: the hook decorates methods one by one, outside of their class, where it has no meaning yet.
An int may stand for a float, as for mypy.
"""

from __future__ import annotations

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: object}), is_pep484_tower=True))
