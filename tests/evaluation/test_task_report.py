"""The report of a task: its pictures, what they are made of, and how they are linked."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from attentune.errors import SpecError
from attentune.evaluation.looks import Look, looks
from attentune.evaluation.task_pictures import attention_picture, calibration_picture, learning_curve
from attentune.evaluation.task_report import Figure, TaskReport
from attentune.tasks.task import Scores
from attentune.tasks.translate import Translate
from tasks.sequences import DATA, numbers, small


def look(**changes: object) -> Look:
    parts = {
        "file": "attention-1.png",
        "title": "Surest",
        "where": "a.tsv, line 3",
        "asked": "eins $zwei",
        "said": "one 二",
        "read": ("eins", "$zwei", "</s>"),
        "wrote": ("one", "二"),
        "weights": np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]),
    }
    return Look(**{**parts, **changes})  # type: ignore[arg-type]


def test_weights_must_fit_the_tokens() -> None:
    with pytest.raises(SpecError, match="from 2 tokens to 3 needs as many weights"):
        look(weights=np.ones((3, 2)))


def test_pictures_are_drawn_whatever_the_letters() -> None:
    tall = look(wrote=("one",) * 20, weights=np.full((20, 3), 1 / 3))
    sizes = [Image.open(io.BytesIO(attention_picture(one))).size for one in (look(), tall)]
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]
    bins = [{"confidence": 0.6, "accuracy": 0.5, "count": 3}, {"confidence": 0.95, "accuracy": 1.0, "count": 7}]
    assert calibration_picture(bins).startswith(b"\x89PNG")
    assert learning_curve({0: [{"step": 5, "loss": 1.0, "scores": {}}]}, "bleu").startswith(b"\x89PNG")


def test_the_report_links_what_it_draws() -> None:
    report = TaskReport(
        task="translate",
        main="bleu",
        scored_on="test",
        figures={"test": {"bleu": Figure(30.0)}},
        baselines={},
        scores=Scores({"bleu": 30.0}, "bleu"),
        curve={},
        looks=(look(),),
    )
    pictures = report.pictures()
    assert list(pictures) == ["attention-1.png"]
    told = report.markdown(list(pictures))
    assert told.count("![attention-1.png](attention-1.png)") == 1
    assert told.index("## Where it looked") < told.index("> → one 二") < told.index("![attention-1.png]")


def test_examples_are_chosen_from_sure_to_unsure_with_weights_of_their_tokens() -> None:
    records = numbers(30, most=6)
    fitted = Translate(source="de", target="en", beam=1).fit(records, DATA, context=12)
    model = fitted.build(fitted.complete(small()), seed=0)
    found = looks(fitted, model, records)
    assert [one.title for one in found] == ["Surest", "In the middle", "Least sure"]
    answers = fitted.predict(model, records)
    scores = {record["de"]: one.fields["score"] for record, one in zip(records, answers, strict=True)}
    assert scores[found[0].asked] >= scores[found[1].asked] >= scores[found[2].asked]
    for one in found:
        assert one.read[:-1] == tuple(one.asked.split())
        assert torch.allclose(torch.from_numpy(one.weights).sum(1), torch.ones(len(one.wrote)), atol=1e-4)
