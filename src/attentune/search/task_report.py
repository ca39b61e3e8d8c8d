"""What the report of a study shows of the model of a task: what it predicts, where it looks, what it gets wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attentune.data.records import Record
from attentune.errors import AttentuneError
from attentune.evaluation.looks import looks
from attentune.evaluation.task_report import Figure, TaskReport
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.storage import atomic_write
from attentune.models.transformer import Transformer
from attentune.search.pictures import AttentionPicture
from attentune.search.result import Sample
from attentune.tasks.task import Example, Fitted
from attentune.training.task import Parts

SHOWN = 5  # predictions
LETTERS = 160  # of a text
PICTURE_TOKENS = 32


def predictions_text(model: nn.Module, fitted: Fitted, records: Sequence[Record]) -> Sample:
    """What the model says of the first records."""
    few = list(records[:SHOWN])
    answers = fitted.predict(model, few)
    lines = []
    for record, answer in zip(few, answers, strict=True):
        asked = " | ".join(" ".join(str(record[column]).split()) for column in fitted.task.asked)
        said = answer.value if isinstance(answer.value, str) else json.dumps(answer.value, ensure_ascii=False)
        lines.append(f"{asked[:LETTERS]}\n  -> {said[:LETTERS]}")
    return Sample(prompt="", text="\n".join(lines), settings="the first records that were held out")


def attention_over(model: nn.Module, fitted: Fitted, examples: Sequence[Example]) -> AttentionPicture | None:
    """Self-attention over one held-out text, of an encoder-decoder over its source; None where there is none."""
    trunk = model.encoder if isinstance(model, EncoderDecoder) else getattr(model, "trunk", None)
    tokenizer = getattr(fitted, "tokenizer", None) or getattr(fitted, "source_tokenizer", None)
    if not isinstance(trunk, Transformer) or tokenizer is None:
        return None
    texts = [one.ids if one.source is None else one.source for one in examples]
    ids = min(texts, key=lambda one: abs(len(one) - PICTURE_TOKENS // 2))[:PICTURE_TOKENS]
    try:
        with torch.no_grad():
            row = torch.from_numpy(ids.astype("int64"))[None].to(next(trunk.parameters()).device)
            given = trunk.eval().hidden_states(row, wanted=frozenset({"output", "weights"}))
        layers = []
        for extra in given.attention:
            weights = extra.get("weights")
            if isinstance(weights, torch.Tensor):  # a layer without attention has none
                layers.append(weights[0].float().cpu().numpy())
        return AttentionPicture(tokens=tuple(tokenizer.tokens(ids.tolist())), layers=tuple(layers))
    except AttentuneError:
        return None


def write_task_report(model: nn.Module, fitted: Fitted, parts: Parts, folder: Path, facts: Mapping[str, str]) -> Path:
    """`report.md` with its pictures and `result.json` on the test records, or where there are none the validation's.

    Raises:
        StorageError: the folder cannot be written.
    """
    scored_on, records = ("test", parts.test) if parts.test else ("validation", parts.validation)
    scores = fitted.score(fitted.predict(model, records), records)
    report = TaskReport(
        task=fitted.task.kind,
        main=scores.main,
        scored_on=scored_on,
        figures={scored_on: {name: Figure(value) for name, value in scores.values.items()}},
        baselines=fitted.baseline(parts.train, records),
        scores=scores,
        curve={},
        facts=facts,
        looks=looks(fitted, model, records),
    )
    pictures = report.pictures()
    for name, picture in pictures.items():
        atomic_write(folder / name, picture)
    data: dict[str, Any] = report.as_data()
    atomic_write(folder / "result.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    atomic_write(folder / "report.md", report.markdown(list(pictures)))
    return folder / "report.md"
