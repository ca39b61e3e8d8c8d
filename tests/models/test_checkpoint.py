"""Model folders: exact round trip, and one clear line for every way they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attentune.data.tokenizers import load_tokenizer, train_tokenizer
from attentune.errors import CheckpointError, StorageError
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.checkpoint import load_model, save_model
from attentune.spec.model import ModelSpec

SPECS = [
    ("heads=4, mask=causal", {}),
    ("heads=4, position=t5, mask=causal", {"share": ("position",)}),
    ("heads=latent(4, rank=8, rotary=4), position=rotary, mask=causal", {"tie_embeddings": False}),
    ("heads=4, mask=causal, branches=lstm", {"norm": "batch", "position": "learned", "bias": True}),
]


def model_of(text: str = SPECS[0][0], **fields: object):
    return build(ModelSpec(vocab_size=23, width=16, depth=2, context=8, layers=(layer(text),), **fields), seed=3).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "fields"), SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_exact(tmp_path: Path, text: str, fields: dict[str, object], dtype: torch.dtype) -> None:
    model = model_of(text, **fields).to(dtype)
    model.bind(dtype=dtype)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    ids = torch.randint(23, (2, 7))
    assert loaded.spec == model.spec and not loaded.training
    assert next(loaded.parameters()).dtype is dtype
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_shared_tables_stay_shared(tmp_path: Path) -> None:
    save_model(tmp_path / "model", model_of(*SPECS[1][:1], **SPECS[1][1]))
    loaded = load_model(tmp_path / "model").model
    tables = [block.attention.held["position"][0].params["table"] for block in loaded.layers]
    assert tables[0] is tables[1]


def test_keeps_tokenizer_card_and_extra(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", ["hello world"])
    save_model(tmp_path / "model", model_of(), tokenizer=tokenizer, card="# Card\n", extra={"note": "kept"})
    loaded = load_model(tmp_path / "model")
    assert loaded.config["note"] == "kept"
    assert (tmp_path / "model" / "README.md").read_text() == "# Card\n"
    assert load_tokenizer(loaded.tokenizer_folder).encode("low").tolist() == tokenizer.encode("low").tolist()
    assert not [f for f in (tmp_path / "model").iterdir() if f.suffix in (".bin", ".pt", ".pkl", ".pickle")]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def _flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def _other_weights(folder: Path) -> None:
    save_file({"odd": torch.zeros(1)}, folder / "model.safetensors")
    _edit(lambda config: config.pop("weights"))(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged"),
        (_flip, "is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (_edit(lambda config: config.update(version=99)), "version 99, this Attentune reads 1"),
        (_edit(lambda config: config["model"].update(width=-1)), "describes no model: .*width"),
        (_edit(lambda config: config["model"].update(width=32)), "has shape"),
        (_other_weights, "does not fit its config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "model_type 'gpt2'"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a model of Attentune"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_clear_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    save_model(tmp_path / "model", model_of())
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(tmp_path / "file")


def test_what_cannot_be_written_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_of()
    save_model(tmp_path / "model", first)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attentune.models.checkpoint.save_file", full)
    with pytest.raises(StorageError, match="no space left"):
        save_model(tmp_path / "model", model_of(SPECS[2][0], **SPECS[2][1]))
    assert load_model(tmp_path / "model").model.spec == first.spec
