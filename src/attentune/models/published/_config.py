"""Reading a foreign configuration: every value is used, known to change nothing, or an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from attentune.errors import SpecError

# What says how to train, generate or file a model, or how transformers shall compute it: none of it changes logits.
BESIDE_THE_POINT = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "_num_labels",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classif_dropout",
        "classifier_dropout",
        "decoder_start_token_id",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "eos_token_id",
        "force_bos_token_to_be_generated",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beams",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "repetition_penalty",
        "return_dict",
        "sep_token_id",
        "slow_but_exact",
        "task_specific_params",
        "temperature",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    }
)
MISSING = object()


@final
class Config:
    """The values of one `config.json`; `finish` complains of those that nothing has read."""

    def __init__(self, family: str, values: Mapping[str, Any]) -> None:
        self.family, self.values = family, dict(values)
        self.unread = set(self.values) - BESIDE_THE_POINT
        given = self.values.get("model_type", family)
        if given != family:
            raise SpecError(f"{family} cannot read a configuration of model_type {given!r}")

    def take(self, name: str, default: Any = MISSING) -> Any:
        """The value called `name`; absent or null means the default, where there is one."""
        self.unread.discard(name)
        value = self.values.get(name)
        if value is None and default is MISSING:
            raise SpecError(f"{self.family} configuration: {name} is required")
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1."""
        value = self.take(name, MISSING if default is None else default)
        if type(value) is not int or value < 1:
            raise SpecError(f"{self.family} configuration: {name} must be a whole number from 1, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.take(name, MISSING if default is None else default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"{self.family} configuration: {name} must be a number, got {value!r}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise SpecError(f"{self.family} configuration: {name} must be true or false, got {value!r}")
        return value

    def choice(self, name: str, choices: Mapping[str, str], default: str | None = None) -> str:
        """Our word for theirs."""
        value = self.take(name, MISSING if default is None else default)
        if value not in choices:
            self.refuse(name, value, f"expected {' or '.join(map(repr, choices))}")
        return choices[value]

    def only(self, name: str, value: Any) -> None:
        """Refuse every value of `name` but this one, which is also the default."""
        given = self.take(name, value)
        if given != value:
            self.refuse(name, given, f"only {value!r} is supported")

    def skip(self, *names: str) -> None:
        """Say that these change nothing here, whatever they hold."""
        self.unread -= set(names)

    def refuse(self, name: str, value: Any, rule: str) -> None:
        raise SpecError(f"{self.family} configuration: {name}={value!r} is not supported; {rule}")

    def finish(self) -> None:
        """Raise where a value is left that nothing has read: it might change what the model computes."""
        for name in sorted(self.unread):
            if self.values[name] is not None:
                value = self.values[name]
                raise SpecError(
                    f"{self.family} configuration: {name}={value!r} is unknown here, and may change the model"
                )
