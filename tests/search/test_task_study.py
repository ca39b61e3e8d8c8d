"""Whole studies of tasks at a tiny size: the six steps, what they leave behind, kills, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import attentune
from attentune.cli import main
from attentune.cli.study_view import study_text
from attentune.errors import AttentuneError, DataError, SpecError, StudyError
from attentune.search.book import Outcome
from attentune.search.ledger import read_ledger
from attentune.search.matching import model_spec
from attentune.search.progress import Quiet
from attentune.search.recipe import baseline_recipe, check_candidates
from attentune.search.result import STAGES, Measure, StudyResult, TrialRecord
from attentune.search.space import ModelSizes, Settings, StudySpec, TuningSpace, read_study
from attentune.search.study import open_subject, optimize
from attentune.search.task_subject import open_task
from attentune.spec.run import DataSpec
from search.test_study import Listener, comparable
from search.tiny_task import tiny_task, write_records
from tasks.opinions import opinions, write
from tasks.sequences import numbers

pytest.importorskip("sklearn", reason="scikit-learn is not installed: classifiers are scored with it")
STOCKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "stockemotions"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def study(records: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path, Listener]:
    torch.set_num_threads(1)
    folder, listener = tmp_path_factory.mktemp("study"), Listener()
    return optimize(tiny_task(records), out=folder, progress=listener, command="attentune optimize"), folder, listener


def test_the_six_stages_maximise_the_score(study: tuple[StudyResult, Path, Listener], records: Path) -> None:
    result, folder, listener = study
    assert tuple(listener.stages) == STAGES
    measure = result.objective.measure
    assert (measure.name, measure.higher_is_better, result.task) == ("macro_f1", True, "classify(metric=macro_f1)")
    assert (measure.answers, measure.best) == (30, 1)
    done = [trial for trial in result.trials if trial.status == "complete"]
    assert all(trial.loss == -trial.figures["macro_f1"] for trial in done)
    assert all(-1 <= trial.loss <= 0 for trial in done if trial.loss is not None)
    assert result.attention.gain == pytest.approx(result.tuned.loss - result.winner.loss)
    assert {arm.seeds for arm in (result.baseline, result.tuned, result.winner, *result.ablations)} == {(0, 1, 2)}
    assert all(len(arm.figures["accuracy"]) == 3 for arm in (result.baseline, result.winner))
    for arm in (result.baseline, result.tuned, result.winner, *result.ablations):
        assert [len(parts) for parts in arm.left_out] == [20, 20, 20]
        assert all(
            abs(part - loss) < 0.1 for loss, parts in zip(arm.losses, arm.left_out, strict=True) for part in parts
        )
    assert read_study(folder / "study.toml") == tiny_task(records)
    assert read_ledger(folder / "ledger.csv") == result.trials
    assert StudyResult.from_json((folder / "result.json").read_text()) == result


def test_the_shipped_model_predicts_as_the_ledger_says(
    study: tuple[StudyResult, Path, Listener], records: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result, folder, _ = study
    assert result.deployment is not None and result.deployment.passed
    model = attentune.load(folder / "best")
    held = open_subject(tiny_task(records), Quiet()).parts.validation  # type: ignore[attr-defined]
    arms = {"baseline": result.baseline, "tuned": result.tuned, "winner": result.winner}
    arm = arms[str(result.deployed)]
    assert model.score(held).values["macro_f1"] == pytest.approx(-arm.losses[0])
    assert main(["predict", str(folder), "--input", str(records), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 100
    assert main(["evaluate", str(folder), "--data", str(records), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 100


def test_what_there_is_to_read_speaks_of_the_score(study: tuple[StudyResult, Path, Listener]) -> None:
    result, folder, _ = study
    html, card = (folder / "report.html").read_text(), (folder / "best" / "README.md").read_text()
    assert "Maximise validation macro_f1" in html
    assert "nats per token" not in html + card
    assert f"{-result.winner.loss:.4f}" in html
    assert "attentune predict" in card and "attentune generate" not in card + html
    told = (folder / "task" / "report.md").read_text()
    assert "majority" in told and "calibration.png" in told
    assert (folder / "task" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    shown = study_text(result, folder)
    assert f"tuned     {-result.tuned.loss:.4f} macro_f1" in shown
    assert f"attentune predict {result.deployment.model if result.deployment else ''} --input" in shown


def test_noise_is_said_to_be_noise(study: tuple[StudyResult, Path, Listener]) -> None:
    result, _, _ = study
    assert result.attention.band is not None
    said = "no improvement beyond noise" in study_text(result, Path("x"))
    assert said == ("noise" in (result.attention.verdict, result.tuning.verdict))


@pytest.mark.slow  # that of a text is killed by default
@pytest.mark.parametrize("count", [30, 130])
def test_a_killed_study_goes_on_to_the_same_result(
    study: tuple[StudyResult, Path, Listener], records: Path, tmp_path: Path, count: int
) -> None:
    expected, _, _ = study
    program = [sys.executable, "-m", "search.tiny_task", str(records), str(tmp_path), str(count)]
    tests = Path(__file__).resolve().parent.parent
    died = subprocess.run(program, cwd=tests, check=False, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    before = read_ledger(tmp_path / "ledger.csv")
    assert before
    listener = Listener()
    result = optimize(tiny_task(records), out=tmp_path, progress=listener, command="attentune optimize")
    assert comparable(result) == comparable(expected)
    assert not set(listener.started) & {trial.number for trial in before}


def test_other_records_or_another_task_are_refused(study: tuple[StudyResult, Path, Listener], records: Path) -> None:
    _, folder, _ = study
    with pytest.raises(AttentuneError, match=r"another configuration: task was"):
        optimize(tiny_task(records, task="classify"), out=folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "clasify"}, "unknown task 'clasify'; did you mean 'classify'"),
        ({"task": "classify(label=stars)"}, "no column 'stars'"),
        ({"data": DataSpec()}, "a task needs records: name their file with --data"),
        ({"candidates": {"encoder.position": ("rotary",)}}, "only tasks from sequence to sequence have an encoder"),
        ({"candidates": {"position": ("rotray",)}}, "candidates.position: .*did you mean 'rotary'"),
        ({"baseline_cross": "heads=2"}, "baseline_encoder and baseline_cross are for tasks from sequence to sequence"),
    ],
)
def test_mistakes_are_found_before_the_folder_is_claimed(
    records: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(AttentuneError, match=says):
        optimize(tiny_task(records, **changes), out=tmp_path)
    assert not (tmp_path / "study.db").exists()


def test_what_is_for_tasks_is_refused_for_a_text() -> None:
    with pytest.raises(SpecError, match="epochs is for tasks"):
        StudySpec(epochs=3)
    with pytest.raises(DataError, match="a task needs records"):
        open_subject(StudySpec(task="classify"), Quiet())


def test_what_a_score_counts(records: Path, tmp_path: Path) -> None:
    assert open_subject(tiny_task(records, folds=4), Quiet()).measure.answers == 100
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(str(one["text"]) for one in opinions(60, 0)) + "\n", encoding="utf-8")
    spec = tiny_task(path, task="mlm")
    hidden = open_task(spec, progress=lambda *_: None)
    model = hidden.models.build(model_spec(baseline_recipe(spec, "encoder"), spec, hidden.models), seed=0)
    held = hidden.parts.validation
    tokens = hidden.fitted.score(hidden.fitted.predict(model, held), held).details["tokens"]
    assert hidden.measure.answers == tokens > len(held)


def test_records_with_nothing_to_hide_are_passed_over(tmp_path: Path) -> None:
    for name, word in (("train", "tea"), ("validation", "milk")):
        lines = [word, word, word, *(f"{word} number {n} is hot" for n in range(20))]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = DataSpec(path=str(tmp_path / "train.txt"), tokenizer="word", vocab_size=300)
    spec = tiny_task(tmp_path, task="mlm", data=data, validation_path=str(tmp_path / "validation.txt"))
    hidden = open_task(spec, progress=lambda *_: None)
    assert hidden.measure.name == "accuracy"
    model = hidden.models.build(model_spec(baseline_recipe(spec, "encoder"), spec, hidden.models), seed=0)
    probed = hidden.probe(model)
    assert [len(one["text"].split()) > 1 for one in json.loads(probed.records)] == [True] * 3


def test_figures_in_per_cent_say_so(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    measure = open_task(translation(tmp_path / "numbers.tsv"), progress=lambda *_: None).measure
    assert (measure.name, measure.best) == ("bleu", 100)


def test_no_run_repeats_the_records_too_often(records: Path) -> None:
    subject = open_subject(tiny_task(records, epochs=2), Quiet())
    run = attentune.RunSpec(context=16, batch=4)
    assert subject.most_steps(run) == 2 * subject.source.buckets(run).per_pass  # type: ignore[union-attr]


def test_folds_hold_out_every_record_once(records: Path) -> None:
    subject = open_subject(tiny_task(records), Quiet())
    folds = [subject.fold(4, number) for number in range(4)]
    held = [one.where for fold in folds for one in fold.parts.validation]  # type: ignore[attr-defined]
    assert len(held) == len(set(held)) == 100
    assert len({fold.fingerprint for fold in folds}) == 4
    few = subject.searched(7)
    assert (few.size, len(few.source.validation), subject.size) == (7, 7, 30)  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_folds_never_part_what_belongs_together(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.csv", [one for one in opinions(12, 0) for _ in range(2)])
    subject = open_subject(tiny_task(path, folds=3), Quiet())
    for number in range(3):
        parts = subject.fold(3, number).parts  # type: ignore[attr-defined]
        assert not {one["text"] for one in parts.train} & {one["text"] for one in parts.validation}
        assert (len(parts.train), len(parts.validation)) == (16, 8)
    assert "Records with the same text are in one fold" in subject.protocol(7, folds=3)
    assert "fold" not in subject.protocol(7, folds=0)
    twins = subject.parts.validation[:4]  # type: ignore[attr-defined]
    test = write(tmp_path / "test.csv", list(twins))
    apart = open_subject(tiny_task(path, folds=3, test_path=str(test), drop_duplicates=True), Quiet())
    for number in range(3):
        fold = apart.fold(3, number)
        parts = fold.parts  # type: ignore[attr-defined]
        assert not {one["text"] for one in parts.test} & {one["text"] for one in (*parts.train, *parts.validation)}
        assert (fold.counts.train, fold.counts.validation) == (len(parts.train), len(parts.validation))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="folds must be at most 12, "):
        open_subject(tiny_task(path, folds=13), Quiet())


def translation(path: Path, **changes: object) -> StudySpec:
    lines = ["de\ten", *sorted({f"{one['de']}\t{one['en']}" for one in numbers(60)})]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = StudySpec(
        task="translate(source=de, target=en, beam=1)",
        data=DataSpec(path=str(path), tokenizer="word", vocab_size=300, validation=0.2),
        model=ModelSizes(width=16, depth=1, heads=2),
        context=12,
        batch=8,
        budget="60k-tokens",
        steps=8,
        search_steps=8,
        tuning=TuningSpace(trials=1),
        candidates={"encoder.position": ("rotary",), "cross.scores": ("qk_norm",), "position": ("rotary",)},
        combinations=0,
        margin=0.0,
    )
    return spec.replace(**changes)


@pytest.mark.slow
def test_what_is_read_of_a_fold_is_of_what_it_held_out(records: Path, tmp_path: Path) -> None:
    spec = tiny_task(records, folds=3, budget="60k-tokens", steps=8, search_steps=8)
    result = optimize(spec, out=tmp_path / "study")
    text = json.loads((tmp_path / "study" / "task" / "result.json").read_text())
    arms = {"baseline": result.baseline, "tuned": result.tuned, "winner": result.winner}
    assert text["validation"]["macro_f1"]["mean"] == pytest.approx(-arms[str(result.deployed)].losses[0])


def test_folders_of_something_else_are_left_alone(records: Path, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "thesis.txt").write_text("mine")
    for resume in (True, False):
        with pytest.raises(StudyError, match=r"holds best, but no study \(study.db\)"):
            optimize(tiny_task(records), out=tmp_path, resume=resume)
    assert (tmp_path / "best" / "thesis.txt").read_text() == "mine"


def test_candidates_stand_in_the_encoder_in_the_decoder_and_between(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    spec = translation(tmp_path / "numbers.tsv", candidates={})
    models = open_subject(spec, Quiet()).models
    base = baseline_recipe(spec, "encoder-decoder")
    plain = model_spec(base, spec, models)
    half = model_spec(base.holding("position", "rotary"), spec.replace(tolerance=0.2), models)
    assert half.encoder is not None and half.scale_embeddings == half.encoder.scale_embeddings  # one table for both
    assert plain.encoder is not None and plain.scale_embeddings and plain.encoder.scale_embeddings
    assert (plain.encoder.layers[0].attention.mask.kind, plain.layers[0].attention.mask.kind) == ("full", "causal")
    check_candidates(spec, "encoder-decoder")
    target = models.count(plain)
    for place, texts in spec.space("encoder-decoder").items():
        for text in texts:
            found = model_spec(base.holding(place, text), spec.replace(tolerance=0.2), models)
            assert abs(models.count(found) - target) <= 0.2 * target
            changed = (found.encoder != plain.encoder, found.layers != plain.layers)
            if place.startswith("cross."):
                assert found.layers[0].cross != plain.layers[0].cross
            assert changed[0] if place.startswith("encoder.") else changed[1]


@pytest.mark.slow
def test_a_translator_is_optimised_and_its_attention_drawn(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    torch.set_num_threads(1)
    spec = translation(tmp_path / "numbers.tsv", steps=60, search_steps=40, settings=Settings(learning_rate=1e-2))
    result = optimize(spec, out=tmp_path / "study", command="attentune optimize")
    assert result.objective.measure.name == "bleu"
    assert {trial.status for trial in result.trials} <= {"complete", "pruned"}
    tried = {trial.attention for trial in result.trials if trial.arm == "candidate"}
    assert any("| encoder: heads=2, position=rotary" in text for text in tried)
    assert any("cross=attention(heads=2, scores=qk_norm)" in text for text in tried)
    assert "encoder: " in result.baseline.attention and "cross=attention" in result.baseline.attention
    assert result.deployment is not None and result.deployment.passed
    assert (tmp_path / "study" / "task" / "attention-1.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(not STOCKS.exists(), reason="the real data of stockemotions are not beside the repository")
def test_real_records_are_optimised_within_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).resolve().parents[2] / "configs" / "stockemotions.toml"
    small = config.read_text(encoding="utf-8").replace("width = 128", "width = 32")
    candidates = '[candidates]\nscores = ["qk_norm"]\nposition = ["alibi"]\n[tuning]\ntrials = 1\n'
    own = "search_steps = 16\nsteps = 24\ncombinations = 0\nsearch_validation_tokens = 6000\n"
    (tmp_path / "stocks.toml").write_text(f"{own}{small}\n{candidates}", encoding="utf-8")
    arguments = ["--config", str(tmp_path / "stocks.toml"), "--data", str(STOCKS / "train_stockemo.csv")]
    arguments += ["--validation-path", str(STOCKS / "val_stockemo.csv")]
    arguments += ["--test-path", str(STOCKS / "test_stockemo.csv"), "--budget", "900k-tokens", "--context", "96"]
    assert main(["optimize", *arguments, "--out", str(tmp_path / "study"), "--json"]) == 0
    result = StudyResult.from_json(capsys.readouterr().out)
    assert result.data.test_records == 1000
    assert result.tokens_used <= 900_000
    assert result.baseline.attention == "added=sinusoidal, heads=4"
    assert all("test macro_f1" in arm.figures for arm in (result.baseline, result.winner))


def test_a_record_knows_its_figures() -> None:
    record = TrialRecord(number=0, stage="objective", arm="a", status="complete", loss=-0.5, figures={"accuracy": 0.5})
    assert Measure(name="accuracy", unit="", higher_is_better=True).text(Outcome(record).loss) == "0.5000"
