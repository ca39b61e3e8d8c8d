"""Any rule of your own about positions, by the name you register it under.

    visible(i, j) = rule(i, j)

`register` keeps the rule, in the program or in a file for `--plugin`; then say `mask=causal & predicate(comb)`. A spec
keeps the name, never the code: whoever reads it registers the rule first. A rule may show later keys; for step-by-step
decoding compose it with `causal`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar, final

import torch
from pydantic import field_validator

from attentune.errors import SpecError
from attentune.mechanisms._named import NamedFunctions
from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions

Rule = Callable[[Tensor, Tensor], Tensor]
RuleT = TypeVar("RuleT", bound=Rule)

_rules: NamedFunctions[Rule] = NamedFunctions("predicate", "rule")


def register(name: str) -> Callable[[RuleT], RuleT]:
    """Decorator: keep a rule under `name`, so that `mask=predicate(name)` finds it.

        from attentune.mechanisms import predicate

        @predicate.register("comb")
        def comb(query: Tensor, key: Tensor) -> Tensor:
            return (query - key) % 3 == 0

    The rule gets the positions of queries and of keys as integer tensors that broadcast against each other, and
    returns a boolean tensor, True where a query may see a key. A name belongs to one rule: `SpecError` where another
    has it. Defining the same function anew, as notebooks do, replaces it.
    """
    _rules.check_name(name)

    def keep(rule: RuleT) -> RuleT:
        _rules.register(name, rule)
        return rule

    return keep


def registered() -> dict[str, Rule]:
    """The rules by name."""
    return dict(_rules.held)


@final
class Predicate(Mask):
    """A query sees what the rule registered as `name` shows it."""

    kind: Literal["predicate"] = "predicate"
    needs_order: ClassVar[bool] = True
    name: str

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        return _rules.check_known(name)

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        seen = _rules[self.name](query.position, key.position)
        if not isinstance(seen, Tensor) or seen.dtype is not torch.bool:
            given = seen.dtype if isinstance(seen, Tensor) else type(seen).__name__
            raise SpecError(f"predicate {self.name!r} must return a tensor of booleans, got {given}")
        return seen

    @property
    def lookahead(self) -> int | None:
        return None
