"""A model as a folder: weights in safetensors, `config.json`, tokenizer, card. Nothing in it is code or pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from attentune.errors import CheckpointError, SpecError, near
from attentune.mechanisms import registry
from attentune.models.build import seeded
from attentune.models.decoder import Decoder
from attentune.models.encoder import Encoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.storage import atomic_folder, settle
from attentune.spec.codec import model_from_data, to_data
from attentune.spec.model import ModelSpec

FORMAT, VERSION = "attentune-model", 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
INSIDE = {"train": "model", "optimize": "best"}  # where in its folder a command leaves the model
BEGUN = {"checkpoints": "train", "study.db": "optimize"}  # what it leaves there before
Model = Decoder | Encoder | EncoderDecoder
STACKS: dict[str, type[Decoder] | type[Encoder] | type[EncoderDecoder]] = {
    "decoder": Decoder,
    "encoder": Encoder,
    "encoder-decoder": EncoderDecoder,
}


@runtime_checkable
class Saves(Protocol):
    """A tokenizer, as far as a model folder is concerned."""

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, the folder that also holds its tokenizer, and all that `config.json` says."""

    model: Model
    tokenizer_folder: Path
    config: dict[str, Any]

    @property
    def decoder(self) -> Decoder:
        """The model, for what needs a language model. Raises CheckpointError where it is none."""
        if not isinstance(self.model, Decoder):
            raise CheckpointError(
                f"{self.tokenizer_folder} holds an {stack_of(self.model)}; this needs a language model (a decoder)"
            )
        return self.model


def save_model(
    folder: str | Path,
    model: Model,
    *,
    tokenizer: Saves | None = None,
    card: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model` to `folder`, whole or not at all; what stood there is replaced.

    `card` is the text of README.md, `extra` is plain data that `config.json` keeps beside the spec.

    Raises:
        StorageError: the folder cannot be written.
    """
    target = Path(folder)
    with atomic_folder(target) as new:
        write_model(new, model, model.spec, {"stack": stack_of(model)}, extra)
        if tokenizer is not None:
            tokenizer.save(new)
        if card is not None:
            (new / CARD).write_text(card, encoding="utf-8")
    return target


def model_folder(folder: Path) -> Path:
    """The folder of the model that `folder` is or, as what `train` or `optimize` has left behind, holds.

    Raises:
        CheckpointError: it holds two models, or the training or study in it has none yet.
    """
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return folder
    inside = [folder / name for name in INSIDE.values() if (folder / name).is_dir()]
    if len(inside) > 1:
        raise CheckpointError(f"{folder} holds two models; name one of them: {' or '.join(map(str, inside))}")
    if inside:
        return inside[0]
    for begun, command in BEGUN.items():
        if (folder / begun).exists():
            raise CheckpointError(
                f"{folder} holds no model yet: `attentune {command}` has not ended there; the same command goes on"
            )
    return folder


def load_model(folder: str | Path) -> LoadedModel:
    """The model in `folder`, or in what `train` or `optimize` left there, in evaluation mode on the CPU.

    Raises:
        CheckpointError: the folder is missing, damaged, foreign, or of a newer version.
    """
    place = model_folder(Path(folder))
    settle(place)
    config = read_config(place)
    if isinstance(config.get("task"), dict):
        kind = config["task"].get("kind")
        raise CheckpointError(
            f"{place} holds a model of the task {kind!r}, not one of language; see `attentune predict`, from Python "
            "attentune.load"
        )
    tensors = read_weights(place, config.get("weights"))
    try:
        spec = model_from_data(config.get("model"), registry)
    except SpecError as error:
        raise CheckpointError(f"{place / CONFIG} describes no model: {error}") from None
    stack = config.get("stack", "decoder")  # what the first folders hold, which do not say
    if stack not in STACKS:
        raise CheckpointError(f"{place / CONFIG} describes no model: stack {stack!r} is unknown; {near(stack, STACKS)}")
    try:
        model = seeded(lambda: STACKS[stack](spec), 0)
    except SpecError as error:
        raise CheckpointError(f"{place / CONFIG} describes no {stack}: {error}") from None
    fill_weights(model, tensors, place / WEIGHTS)
    return LoadedModel(model.eval(), place, config)


def write_model(
    folder: Path, model: nn.Module, spec: ModelSpec, kind: Mapping[str, Any], extra: Mapping[str, Any] | None
) -> None:
    """Weights and `config.json` of any model into a folder that is being made; `kind` says what is built of `spec`."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights_of(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        **kind,
        "model": to_data(spec),
        "layers": [str(layer) for layer in spec.layers],
        "weights": signature_of(folder / WEIGHTS),
        "torch": torch.__version__,
        **dict(extra or {}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_weights(place: Path, signature: Any) -> dict[str, torch.Tensor]:
    """The tensors in the folder `place`; `signature` is what its `config.json` says of the file, None for nothing.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    weights = place / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{place} is incomplete: {WEIGHTS} is missing")
    if signature is not None and signature != signature_of(weights):
        raise CheckpointError(f"{weights} is damaged: it is not as it was written; restore it from a copy")
    try:
        return load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is damaged: {error}") from None


def stack_of(model: Model) -> str:
    """`decoder`, `encoder` or `encoder-decoder`."""
    return next(name for name, kind in STACKS.items() if type(model) is kind)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by name, shared ones once."""
    saved = model.state_dict()
    return {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if n in saved}}


@torch.no_grad()
def fill_weights(model: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Copies what the file `source` holds into a model of the same names and shapes, and takes over its dtype.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = weights_of(model)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"{source} does not fit its config.json: {name!r} is {'missing' if name in own else 'unknown'}"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{source} does not fit its config.json: {name!r} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
    if len({tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}) == 1:
        model.to(next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()))
        own = weights_of(model)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def read_config(place: Path) -> dict[str, Any]:
    """What `config.json` in the folder `place` says.

    Raises:
        CheckpointError: the folder or the file is missing, damaged, foreign, or of another version.
    """
    if not place.is_dir():
        raise CheckpointError(
            f"no model at {place}: {'it is a file, not' if place.exists() else 'there is no such'} folder"
        )
    path = place / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{place} holds no model: {CONFIG} is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        kind = config.get("model_type") if isinstance(config, dict) else None
        what = f"a checkpoint of model_type {kind!r}" if kind else "not a model of Attentune"
        raise CheckpointError(f"{place} is {what}; give a folder that Attentune has written")
    if config.get("version") != VERSION:
        raise CheckpointError(
            f"{place} has model version {config.get('version')}, this Attentune reads {VERSION}; "
            "use the version that wrote it"
        )
    return config


def signature_of(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, by which damage is told."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
