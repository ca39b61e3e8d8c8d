"""What a suite is: examples with exact answers, made from a seed, and the published way to train a model on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64
from pydantic import Field

from attentune.data.batches import IGNORED
from attentune.errors import SpecError
from attentune.spec.value import Frozen

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ATTEMPTS = 20  # rounds of drawing anew what also stands among the held-out examples


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of tokens, and at each position the answer that is asked for there, `IGNORED` where none is.

    `lengths` counts the real tokens of each row, which is padded behind them; None: all rows are full. `groups` names
    what each row belongs to, such as the depth of a needle, for scores of their own.
    """

    ids: Int[np.ndarray, "N T"]
    targets: Int[np.ndarray, "N T"]
    lengths: Int64[np.ndarray, " N"] | None = None
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: Int64[np.ndarray, " M"]) -> Examples:
        """Only the `chosen` rows, in that order."""
        return Examples(
            self.ids[chosen],
            self.targets[chosen],
            None if self.lengths is None else self.lengths[chosen],
            None if self.groups is None else tuple(self.groups[row] for row in chosen),
        )


class Recipe(Frozen):
    """The model and the training that a suite's published numbers were had with.

    The learning rate falls from `learning_rate` to 0 as a cosine over all epochs, without warm-up; AdamW with betas
    .9 and .999, no clipping. Training ends early once a pass over the held-out examples is answered to `solved`.
    """

    width: Count = 64
    depth: Count = 2
    feed_forward: Literal["gelu", "relu2", "swiglu", "none"] = "none"
    position: Literal["none", "sinusoidal", "learned"] = "learned"  # what is added to the embeddings
    start: Literal["wide", "small"] = "wide"  # as PyTorch's modules: wide weights, biases, own head; or .02, tied
    examples: Count = 10_000  # to train on, drawn once for each seed
    test_examples: Count = 1_000  # held out, the same for every seed
    batch: Count = 64
    epochs: Count = 24
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    solved: Annotated[float, Field(gt=0, le=1)] = 0.99


@runtime_checkable
class Task(Protocol):
    """What models are trained on and measured by."""

    @property
    def name(self) -> str:
        """The text that users type for it."""

    @property
    def recipe(self) -> Recipe:
        """The published training."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def length(self) -> int:
        """Tokens of the longest row."""

    @property
    def counts(self) -> Literal["answers", "rows"]:
        """Whether accuracy is the share of right answers, or of rows whose answers are all right."""

    @property
    def reads_answers(self) -> bool:
        """Whether a row holds earlier answers as input, so that no model may look ahead."""

    def identity(self) -> dict[str, Any]:
        """All that decides the examples, as plain data."""

    def training(self, count: int, rng: np.random.Generator) -> Examples:
        """`count` examples to train on."""

    def test(self, count: int, rng: np.random.Generator) -> Examples:
        """About `count` examples to measure by."""


class Suite(Frozen, ABC):
    """A task whose examples follow from its fields alone. `kind` is what users type: the name of its file."""

    kind: str
    published: ClassVar[Recipe] = Recipe()
    counts: ClassVar[Literal["answers", "rows"]] = "answers"
    reads_answers: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return str(self)

    @property
    def recipe(self) -> Recipe:
        return self.published

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @property
    @abstractmethod
    def length(self) -> int: ...

    @abstractmethod
    def examples(self, count: int, rng: np.random.Generator) -> Examples:
        """`count` examples drawn with `rng`."""

    def training(self, count: int, rng: np.random.Generator) -> Examples:
        return self.examples(count, rng)

    def test(self, count: int, rng: np.random.Generator) -> Examples:
        return self.examples(count, rng)

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        """The text form: the name, and the fields that are not as published."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}
        changed = {name: held for name, held in fields.items() if held != type(self).model_fields[name].default}
        return f"{self.kind}({', '.join(f'{n}={h!r}' for n, h in changed.items())})" if changed else self.kind


def draw(task: Task, recipe: Recipe, *, seed: int) -> tuple[Examples, Examples]:
    """The examples to train on, which follow from `seed`, and the held-out ones, which are the same for every seed.

    Raises:
        SpecError: the task has so few different examples that none can be held out.
    """
    test = task.test(recipe.test_examples, np.random.default_rng((0, 1)))
    held_out = {row.tobytes() for row in test.ids}
    rng = np.random.default_rng((seed, 0))
    train = task.training(recipe.examples, rng)
    for _ in range(ATTEMPTS):
        known = np.array([row.tobytes() in held_out for row in train.ids])
        if not known.any():
            return train, test
        fresh = task.training(int(known.sum()), rng)
        train.ids[known], train.targets[known] = fresh.ids, fresh.targets
        if train.lengths is not None and fresh.lengths is not None:
            train.lengths[known] = fresh.lengths
    raise SpecError(f"{task.name} has too few different examples to hold any out: make it larger")


def blank_targets(ids: Int[np.ndarray, "N T"]) -> Int[np.ndarray, "N T"]:
    """Targets for `ids` that ask for nothing yet."""
    return np.full_like(ids, IGNORED)
