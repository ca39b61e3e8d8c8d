"""The work of `--from`: the model in a folder, and what of the options goes with it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attentune.cli.train import ModelOptions, Options
from attentune.cli.training import model_spec
from attentune.cli.words import UsageError
from attentune.data.encoding import DataWarning
from attentune.models.checkpoint import model_folder
from attentune.models.published.folder import is_published
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.spec.start import StartSpec
from attentune.tasks.origin import Origin, read_origin, spec_from
from attentune.tasks.task import Fitted, Stack
from attentune.training.adapting import Beginning

OF_TRAINING = ("dropout", "attention_dropout")  # not of what the weights compute
OF_TOKENIZERS = ("tokenizer", "vocab_size", "lowercase")  # of DataSpec: of new ones
OF_DECODERS = ("depth", "layers")  # may be said of a decoder that the folder does not have


@dataclass(frozen=True)
class Start:
    """A model to start from, and the spec that it gives the new one, without the sizes that the data decide."""

    origin: Origin
    spec: ModelSpec
    options: StartSpec

    def beginning(self, fitted: Fitted | None = None) -> Beginning:
        """What puts the weights into a fresh model."""
        return Beginning(self.origin, self.options, fitted)

    def told(self) -> str:
        """One line about it."""
        more = [f"{self.options.freeze} frozen"] if self.options.freeze else []
        if self.options.layer_decay < 1:
            more.append(f"learning rate x {self.options.layer_decay:g} from layer to layer downwards")
        if adapters := self.options.adapters.rank:
            more.append(f"adapters of rank {adapters}, alpha {self.options.adapters.alpha:g}, merged at the end")
        return ", ".join([f"{self.origin.folder}, {self.origin.what}, and its tokenizer", *more])


def read_start(options: Options, run: RunSpec, stack: Stack) -> Start | None:
    """The model that `options` start from; None where its weights are drawn.

    Raises:
        UsageError: options for such a model without one, or of a model that the folder does not hold.
        CheckpointError: the folder holds none that fits.
    """
    start = options.start
    if start.path is None:
        if start != StartSpec():
            raise UsageError(
                "freeze, layer_decay, part and adapters are for a model that is there: name it with --from"
            )
        return None
    if options.data.tokenizer_from not in (None, start.path):
        raise UsageError("--from brings its own tokenizer: leave data.tokenizer_from out")
    origin = read_origin(model_folder(Path(start.path)))
    others = [name for name in OF_TOKENIZERS if name in options.data.model_fields_set]
    if others:
        warnings.warn(
            f"{origin.folder} brings its own tokenizer: {', '.join(f'data.{name}' for name in others)} does nothing",
            DataWarning,
            stacklevel=2,
        )
    if start.part == "encoder" and origin.spec.encoder is None:
        raise UsageError(f"start.part=encoder: {origin.folder} holds no encoder and decoder to choose from")
    found = spec_from(origin, stack, context=run.context, part=start.part)
    asked = model_spec(options.model, vocab_size=1, context=run.context, stack=stack)
    new_decoder = stack == "encoder-decoder" and (origin.spec.encoder is None or start.part == "encoder")
    return Start(origin, _agreed(options.model, asked, found, origin, new_decoder=new_decoder), start)


def read_language_start(options: Options, run: RunSpec) -> Start | None:
    """The same for a language model, which goes on from another one alone.

    Raises:
        UsageError: the folder holds a model of a task, or one that sees what it is to predict.
    """
    found = read_start(options, run, "decoder")
    if found is None:
        return None
    folder, origin = found.origin.folder, found.origin
    if origin.kind != "lm" and not is_published(folder):
        raise UsageError(f"{folder} holds {origin.what}: a language model goes on from a language model")
    if origin.spec.encoder is not None:
        raise UsageError(f"{folder} holds an encoder and a decoder: a language model goes on from a decoder alone")
    ours = any(attention.mask.lookahead is None for attention in found.spec.attentions)
    if ours and is_published(folder):
        raise UsageError(f"{folder} sees the tokens that it would have to predict; it is for tasks, such as --task mlm")
    return found


def _agreed(
    options: ModelOptions, asked: ModelSpec, found: ModelSpec, origin: Origin, *, new_decoder: bool
) -> ModelSpec:
    """`found` with what the options say of training and of a new decoder.

    Raises:
        UsageError: they say something else than the folder.
    """
    changes: dict[str, Any] = {}
    for name in ModelOptions.model_fields:
        if name not in options.model_fields_set:
            continue
        if name in OF_TRAINING or (new_decoder and name in OF_DECODERS):
            changes[name] = getattr(asked, name)
            continue
        ours, theirs = (_comparable(spec, name) for spec in (asked, found))
        if ours != theirs:
            raise UsageError(
                f"model.{name}={_shown(ours)}, but the model in {origin.folder} has {_shown(theirs)}; leave it out"
            )
    spec = found.replace(**changes)
    training = {name: changes[name] for name in OF_TRAINING if name in changes}
    return spec if spec.encoder is None or not training else spec.replace(encoder=spec.encoder.replace(**training))


def _comparable(spec: ModelSpec, name: str) -> Any:
    """What an option of that name says, in a form that is equal where models are."""
    if name == "layers":
        return tuple(str(spec.layer(index)) for index in range(spec.depth))
    if name == "feed_forward":
        return spec.feed_forward.name, spec.feed_forward.hidden_width(spec.width)
    if name == "share":
        return tuple(sorted(one for one in spec.share if one != "embedding"))
    if name == "encoder":
        return None if spec.encoder is None else (spec.encoder.depth, _comparable(spec.encoder, "layers"))
    if name == "ngrams" and spec.encoder is not None:
        return spec.encoder.ngrams
    return getattr(spec, name)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value and len(set(value)) == 1:
        return str(value[0])
    return str(value)
