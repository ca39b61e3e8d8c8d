"""`--from` at the terminal: checkpoints in the Hugging Face layout, with their tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import attentune
from attentune.cli import main
from data.foreign import TEXTS, bert, gpt2, marian
from models.published.comparing import published
from tasks.opinions import opinions, write

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
pytestmark = pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
STILL = ["--optimizer.learning-rate", "1e-9", "--optimizer.weight-decay", "0"]  # so that weights stay as they came
SMALL = ["--batch", "8", "--steps", "2", "--schedule.warmup", "1", *STILL]


def saved(folder: Path, kind: str, config: str, **sizes: Any) -> Any:
    model = published(getattr(transformers, kind), getattr(transformers, config)(**sizes))
    model.save_pretrained(folder)
    return model


def bert_folder(folder: Path) -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    bert(folder)
    return saved(folder, "BertForMaskedLM", "BertConfig", vocab_size=20, max_position_embeddings=24, **sizes)


def test_bert_as_a_classifier_and_as_what_it_was(files: Path, tmp_path: Path) -> None:
    bert_folder(tmp_path)
    line = ["--data", str(files / "train.csv"), *SMALL, "--context", "16", "--from", str(tmp_path), "--no-baselines"]
    out = {name: tmp_path / name for name in ("classify", "mlm")}
    for name, folder in out.items():
        assert main(["train", "--task", name, *line, "--out", str(folder)]) == 0
    made = {name: load_file(folder / "model" / "model.safetensors") for name, folder in out.items()}
    theirs = load_file(tmp_path / "model.safetensors")
    table = theirs["bert.embeddings.word_embeddings.weight"]
    for weights in made.values():
        assert (weights["trunk.embedding.table"] - table).abs().max() < 1e-6
        assert len(weights["trunk.embedding.places"]) == 16  # of 24: as many as the context needs
    head = theirs["cls.predictions.transform.dense.weight"]
    assert (made["mlm"]["trunk.head_transform.weight"] - head).abs().max() < 1e-6
    fitted = attentune.load(out["classify"] / "model").fitted
    ids = fitted.example(opinions(1, 1)[0]).ids
    assert (ids[0], ids[-1]) == (3, 4)  # [CLS] and [SEP] around the text


def test_gpt2_goes_on_as_a_language_model_and_writes(
    capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path
) -> None:
    gpt2(tmp_path)
    size = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    theirs = saved(
        tmp_path, "GPT2LMHeadModel", "GPT2Config", vocab_size=size, n_embd=8, n_layer=2, n_head=2, n_positions=32
    )
    out = tmp_path / "out"
    line = ["train", "--data", str(files / "texts.txt"), *SMALL, "--context", "16", "--from", str(tmp_path)]
    assert main([*line, "--out", str(out)]) == 0
    model = attentune.load_model(out / "model").decoder
    tokenizer = attentune.load_tokenizer(out / "model")
    ids = torch.tensor([tokenizer.encode(TEXTS[0]).tolist()[:16]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, theirs(input_ids=ids).logits, rtol=1e-3, atol=1e-4)
    capsys.readouterr()
    assert main(["generate", str(out), "--prompt", "the cat", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("the cat")
    assert main([*line[:-1], str(out), "--context", "33", "--out", str(tmp_path / "long")]) == 2


def test_marian_goes_on_translating(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="metrics of translations need sacrebleu")
    layers = {f"{half}_{what}": n for half in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 12))}
    heads = {f"{half}_attention_heads": 2 for half in ("encoder", "decoder")}
    marian(tmp_path)
    ends = {"pad_token_id": 7, "eos_token_id": 0, "forced_eos_token_id": 0, "decoder_start_token_id": 7}
    theirs = saved(
        tmp_path,
        "MarianMTModel",
        "MarianConfig",
        vocab_size=8,
        decoder_vocab_size=8,
        d_model=8,
        max_position_embeddings=16,
        scale_embedding=True,
        **{**layers, **heads, **ends},
    )
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("en\tde\n" + "the cats\tdie Katzen\nthe ts\tdie\n" * 10, encoding="utf-8")
    line = ["train", "--data", str(pairs), *SMALL, "--context", "12", "--from", str(tmp_path), "--no-baselines"]
    options = "source=en, target=de, beam=1"
    assert main([*line, "--task", f"translate({options})", "--out", str(tmp_path / "no")]) == 2
    out = tmp_path / "out"
    assert main([*line, "--task", f"translate({options}, shared_vocabulary=false)", "--out", str(out)]) == 0
    found = attentune.load(out / "model")
    source, target = torch.tensor([[3, 5, 4, 0]]), torch.tensor([[7, 2, 6]])
    example = found.fitted.example(attentune.load(out / "model")._record({"en": "the cats", "de": "die Katzen"}, 1))
    assert example.source is not None
    assert (example.source.tolist(), example.ids.tolist()) == (source[0].tolist(), target[0].tolist())
    with torch.no_grad():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
        mine = found.model(target, source=source).logits
    torch.testing.assert_close(mine[..., :8], expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(folder / "train.csv", opinions(40, 1))
    (folder / "texts.txt").write_text("\n".join([*TEXTS, ""]) * 8, encoding="utf-8")
    return folder


def test_what_is_a_pickle_is_not_opened(capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path) -> None:
    bert_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    capsys.readouterr()
    line = ["train", "--task", "classify", "--data", str(files / "train.csv"), "--from", str(tmp_path)]
    assert main([*line, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "a pickle, which may run code and is never opened here" in said[0]
