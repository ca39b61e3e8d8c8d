"""The report and the card: complete, self-contained, escaped, and saying what the numbers say."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attentune.errors import SpecError, StorageError
from attentune.search import charts, wording
from attentune.search.analysis import difference
from attentune.search.card import cell, fenced, model_card, spread
from attentune.search.charts import (
    Axis,
    CostPoint,
    CurveSeries,
    axis,
    learning_curves,
    quality_against_cost,
    round_step,
    tick_texts,
)
from attentune.search.pictures import AttentionPicture, ReportPictures, image_uri, reach_text, visible
from attentune.search.report import cost_points, report_html, stage_views, write_report
from attentune.search.result import ArmResult, Difference, Measure, StudyResult
from attentune.search.wording import short_count

VOID = {"meta", "link", "br", "img", "rect", "image", "line", "path", "circle", "polyline"}


class Page(HTMLParser):
    """Collects tags and text, and fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html(study_result: StudyResult, report_pictures: ReportPictures) -> str:
    return report_html(study_result, report_pictures)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_comes_from_outside(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_there_is_one_main_part(page: Page) -> None:
    assert len(page.all("main")) == 1


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique(html: str, page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(link["href"])[1:] for link in page.all("a")} | set(re.findall(r"url\(#(.+?)\)", html))
    assert targets
    assert targets <= set(ids)


def test_it_says_what_a_reader_looks_for(page: Page, study_result: StudyResult) -> None:
    said = page.text
    for expected in (
        "Tuning the baseline lowered the validation loss by 0.1208 ± 0.0009 nats per token (5 paired seeds).",
        "The attention alone lowered the validation loss by a further 0.0633 ± 0.0009 nats per token",
        "57 min 12 s",
        study_result.command,
        study_result.data.fingerprint,
        "torch 2.13.0+cpu",
        "kernel sdpa cannot return a learned bias",
        "−0.0020 ± 0.0022",
        "What say you, <b>sir</b>? & I will not be so",
        "flex no: needs_grad on CPU",
        "latency at most 5 ms: the winner has 1.91 ms met",
    ):
        assert expected in said
    for stage in ("Objective", "Adaptivity", "Long range", "Parameters", "Evaluation", "Deployment"):
        assert stage in page.texts


def test_text_from_outside_is_escaped(study_result: StudyResult) -> None:
    evil = "<script>alert(1)</script>"
    trial = study_result.trials[0].replace(settings={evil: evil, "attention": evil}, reason=evil)
    tampered = study_result.replace(name=evil, plan=evil, command=evil, trials=(trial, *study_result.trials[1:]))
    token = AttentionPicture(tokens=(evil[:12],), layers=(np.ones((1, 1, 1)),))
    made = report_html(tampered, ReportPictures(winner=token))
    assert evil not in made
    assert evil[:11] not in made
    assert len(Page(made).all("script")) == 1


def test_every_picture_has_words_and_every_table_a_caption(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 2 * 4 * 4
    assert all(picture.get("alt") for picture in pictures)
    for drawing in page.all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert page.all("html")[0]["lang"] == "en"


def test_every_trial_has_a_row_and_every_varying_setting_a_column(html: str, study_result: StudyResult) -> None:
    table = html[html.index('<table class="sortable">') :]
    assert table.count("<tr>") == 1 + len(study_result.trials)
    heads = re.findall(r"<button type=\"button\">(.+?)</button>", table)
    assert heads[-5:] == ["learning rate", "optimizer", "depth", "schedule", "batch"]
    assert "The same in all: width 128." in html


def test_a_study_with_little_in_it_still_has_a_report(study_result: StudyResult) -> None:
    bare = study_result.replace(slots=(), ablations=(), trials=(), sample=None, plan="", deployment=None, stages=())
    said = Page(report_html(bare, ReportPictures())).text
    assert "The finalists left no learning curves." in said
    assert "No slot was switched off" in said
    assert "Attention on the same sentence" not in said
    assert said.count("Not reached.") == 6


def test_few_seeds_and_costs_that_never_vary_are_drawn_honestly(study_result: StudyResult) -> None:
    def few(finalist: ArmResult) -> ArmResult:
        return finalist.replace(
            seeds=(0,), losses=(1.5,), bits_per_character=(), latency_ms=0.0, parameters=0, seconds=0.0, peak_bytes=7
        )

    baseline, tuned, winner = map(few, (study_result.baseline, study_result.tuned, study_result.winner))
    bare = study_result.replace(
        seeds=(0,),
        baseline=baseline,
        tuned=tuned,
        winner=winner,
        ablations=(),
        slots=(),
        tuning=difference("tuning", baseline, tuned),
        attention=difference("attention", tuned, winner),
        trials=(),
    )
    made = report_html(bare, ReportPictures())
    said = Page(made).text
    assert "one seed is not enough to tell" in said
    assert "one seed: no noise band" in said
    assert "too few seeds" in said
    assert "Pareto front" not in made
    assert "not drawn: parameters 0, latency 0 ms, training time 0 s, peak memory 7 B." in said
    assert 'class="whisker"' not in made
    assert not re.search(r"\b(nan|inf)\b", made)


def table_of_finalists(html: str) -> str:
    start = html.index('aria-label="Table of finalists"')
    return html[start : html.index("</table>", start)]


def test_finalists_show_settings_that_differ_and_wrap(html: str) -> None:
    table = table_of_finalists(html)
    assert table.count("optimizer adamw") == 1 and table.count("batch 12") == table.count("width 128") == 1
    assert table.count("learning_rate 0.004, optimizer muon, schedule wsd") == 2
    assert "attention and settings</th>" not in table  # no column of its own: it would not fit
    assert table.count('<tr class="detail"><td colspan="6">') == 8


def test_a_study_without_a_candidate_shows_none(study_result: StudyResult) -> None:
    alone = study_result.replace(
        winner=study_result.tuned.replace(name="winner"),
        attention=difference("attention", study_result.tuned, study_result.tuned),
        ablations=(),
        slots=(),
        deployed="tuned",
    )
    made = report_html(alone, ReportPictures())
    table = table_of_finalists(made)
    assert table.count("<tr") == 1 + 2 * 2
    assert 'class="mark winner' not in made and 'class="mark tuned' in made
    assert "no candidate among the finalists" in made
    assert "| attention |" not in model_card(alone).split("## What each choice bought")[1]
    assert "| attention |" in model_card(study_result).split("## What each choice bought")[1]


def test_a_candidate_that_is_not_shipped_is_no_winner(study_result: StudyResult) -> None:
    said = Page(report_html(study_result.replace(deployed="tuned"), ReportPictures())).text
    assert "best candidate's loss" in said and "best candidate without one slot" in said
    assert "winner's loss" in Page(report_html(study_result.replace(deployed="winner"), ReportPictures())).text


def test_curves_of_a_loss_are_not_taken_for_the_score(study_result: StudyResult) -> None:
    loss = Measure(
        name="accuracy", unit="", higher_is_better=True, on_the_way="validation loss, nats, the least so far"
    )
    told = study_result.replace(objective=study_result.objective.replace(measure=loss))
    assert "They show the validation loss, nats, the least so far" in Page(report_html(told, ReportPictures())).text
    score = study_result.objective.replace(measure=loss.replace(rises=True))
    assert "They show the" not in report_html(study_result.replace(objective=score), ReportPictures())


def test_costs_that_differ_are_drawn_and_the_others_said(study_result: StudyResult, html: str) -> None:
    assert html.count("of them on the Pareto front") == 4
    arms = {name: getattr(study_result, name).replace(parameters=804_000) for name in ("baseline", "tuned", "winner")}
    trials = tuple(trial.replace(parameters=804_000) for trial in study_result.trials)
    made = report_html(study_result.replace(**arms, trials=trials, ablations=(), slots=()), ReportPictures())
    assert made.count("of them on the Pareto front") == 3
    assert "The same for all, and therefore not drawn: parameters 804k." in Page(made).text


def test_marks_on_one_place_can_all_be_seen() -> None:
    points = [CostPoint(cost, 1.0, kind, kind) for cost, kind in ((1.0, "winner"), (1.0, "tuned"), (1.0, "baseline"))]
    drawn = str(quality_against_cost([*points, CostPoint(2.0, 2.0, "trial", "trial")], "latency", str))
    places = re.findall(r'class="mark (\w+) [^"]*" transform="translate\(([^)]+)\)"', drawn)
    assert [kind for kind, _ in places] == ["trial", "tuned", "baseline", "winner"]
    assert len({place for kind, place in places if kind != "trial"}) == 1
    style = (Path(charts.__file__).parent / "templates" / "report.css").read_text()
    for above in ("baseline", "winner"):  # what is drawn over others is open
        assert re.search(rf"\.mark\.{above} {{ fill: none;", style)


def test_writing_replaces_and_refuses_clearly(
    tmp_path: Path, study_result: StudyResult, report_pictures: ReportPictures
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(study_result, report_pictures, path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_report(study_result, report_pictures, tmp_path / "file" / "report.html")


def arm(name: str, attention: str, losses: tuple[float, ...]) -> ArmResult:
    return ArmResult(name=name, attention=attention, seeds=tuple(range(len(losses))), losses=losses)


def made_difference(*gains: float) -> Difference:
    return difference("attention", arm("a", "x", tuple(2 + gain for gain in gains)), arm("b", "y", (2.0,) * len(gains)))


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        ((0.04, 0.05, 0.06), "It lowered the validation loss by 0.0500 ± 0.0248 nats per token (3 paired seeds)."),
        (
            (-0.04, -0.05, -0.06),
            "It made the validation loss worse by 0.0500 ± 0.0248 nats per token (3 paired seeds).",
        ),
        ((0.0, 0.05, 0.1), "It brought no improvement beyond noise: +0.0500 ± 0.1242 nats per token (3 paired seeds)."),
        (
            (0.5, 0.5),
            "It changed the loss by +0.5000 ± 0.0000 (positive is better), but two seeds are not enough to tell.",
        ),
        ((-0.5,), "It changed the loss by −0.5000 (positive is better), but one seed is not enough to tell."),
    ],
)
def test_sentences(gains: tuple[float, ...], sentence: str) -> None:
    assert wording.judgement("It", made_difference(*gains), Measure()) == sentence


def test_folds_are_not_called_seeds(study_result: StudyResult) -> None:
    def folded(found: Difference) -> Difference:
        return found.replace(folds=len(found.gains))

    few = folded(made_difference(0.5, 0.5))
    assert wording.judgement("It", few, Measure()).endswith("but two folds are not enough to tell.")
    said = wording.judgement("It", folded(made_difference(0.04, 0.05, 0.06)), Measure())
    assert said.endswith("per token (3 folds).")
    tuning, attention = folded(study_result.tuning), folded(study_result.attention)
    told = study_result.replace(tuning=tuning, attention=attention, protocol=())
    page, card = Page(report_html(told, ReportPictures())).text, model_card(told)
    assert "mean over 5 folds ± half of its 95 % confidence interval over the folds" in page
    assert "Thin: one fold each." in page and "Gains are paired over folds" in page
    assert "paired seeds" not in page and "the seeds" not in page and "seeds 0, 1" not in card
    assert "mean over folds 0, 1, 2, 3, 4" in card and "mean of 5 folds" in card
    wider, plain = (spread(one.winner, Measure(), folds=one.folds) for one in (told, study_result))
    assert float(wider.split()[-1]) == pytest.approx(1.5 * float(plain.split()[-1]), abs=1e-4)


def test_a_winner_by_its_cost_says_so(study_result: StudyResult) -> None:
    for gains, than in (((-0.04, -0.05, -0.06), "more than it loses in quality"), ((0.0, 0.05, 0.1), "beyond noise")):
        found = study_result.replace(attention=made_difference(*gains).replace(saved=0.2), deployed="winner")
        sentence = f" At the objective's prices it saves 0.2000, {than}: it is deployed."
        assert wording.verdict_sentences(found)[1].endswith(sentence)
        assert sentence in Page(report_html(found, ReportPictures())).text and sentence in model_card(found)
        assert "prices" not in wording.verdict_sentences(found.replace(deployed="tuned"))[1]
    gain = study_result.replace(attention=study_result.attention.replace(saved=0.2), deployed="winner")
    assert "prices" not in wording.verdict_sentences(gain)[1]


def test_a_winner_that_is_the_tuned_baseline_claims_nothing(study_result: StudyResult) -> None:
    same = study_result.replace(winner=study_result.tuned.replace(name="winner"))
    assert wording.verdict_sentences(same)[1].startswith("No candidate attention was better")
    untried = same.replace(trials=tuple(trial for trial in same.trials if trial.arm != "candidate"))
    assert wording.verdict_sentences(untried)[1].startswith("No candidate attention was tried")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (wording.signed(-0.00001), "0.0000"),
        (wording.signed(-0.05), "−0.0500"),
        (wording.short_count(804_096), "804k"),
        (wording.short_count(999_600), "1M"),
        (wording.short_count(0), "0"),
        (wording.bytes_text(212_000_000), "212 MB"),
        (wording.bytes_text(12), "12 B"),
        (wording.duration_text(3432), "57 min 12 s"),
        (wording.duration_text(59.96), "1 min"),
        (wording.duration_text(7260), "2 h 1 min"),
        (wording.duration_text(0.123), "0.123 s"),
        (wording.cost_text("latency_ms", 1.2345), "1.23 ms"),
        (wording.cost_text("parameters", None), "–"),
        (wording.setting_text(True), "yes"),
        (wording.setting_text(0.004), "0.004"),
    ],
)
def test_numbers_are_written_for_people(given: str, expected: str) -> None:
    assert given == expected


def test_stages_count_their_trials(study_result: StudyResult) -> None:
    stages = {stage.name: stage for stage in stage_views(study_result)}
    assert stages["adaptivity"].decision == "kept soft cap, gate and softmax-off-by-one"
    assert stages["adaptivity"].facts == ("6 complete", "3 pruned", "1 refused", "3.84M tokens", "5 min 20 s")
    assert stages["deployment"].summary.startswith("Saved, reloaded in a fresh process: the same logits")


def test_axes() -> None:
    scale = Axis(0, 10, 100, 200)
    assert [scale.at(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert scale.ticks() == (0, 2, 4, 6, 8, 10)
    logarithmic = axis([1, 100], 0, 100, pad=0, may_be_log=True)
    assert logarithmic.at(10) == pytest.approx(50)
    assert logarithmic.ticks() == (1, 5, 20, 100) or logarithmic.ticks() == (1, 2, 5, 10, 20, 50, 100)
    assert axis([3, 3], 0, 1).at(3) == 0.5
    assert [round_step(rough) for rough in (0.11, 0.9, 3, 42)] == [0.1, 1, 2.5, 50]


def test_the_mean_curve_uses_only_points_that_all_seeds_reached() -> None:
    series = CurveSeries("winner", "winner", (((1, 4.0), (2, 3.0), (3, 2.0)), ((1, 2.0), (3, 1.0))))
    assert series.mean() == ((1, 3.0), (3, 1.5))
    assert learning_curves([CurveSeries("winner", "winner", (((1, 4.0),),))]) is None
    assert learning_curves([series], from_share=0.99) is None
    short = CurveSeries("tuned", "tuned", (((0, 4.0), (0, 3.0)),))
    assert learning_curves([short]) is None
    drawn = learning_curves([series])
    assert drawn is not None
    assert drawn.count("<polyline") == 3


def test_quality_against_cost_shows_complete_trials_and_averaged_finalists(study_result: StudyResult) -> None:
    points = cost_points(study_result, "latency_ms")
    complete = [t for t in study_result.trials if t.status == "complete" and not t.arm.startswith("final:")]
    assert [point.kind for point in points] == ["trial"] * len(complete) + ["baseline", "tuned", "winner"] + [
        "ablation"
    ] * 5
    winner = next(point for point in points if point.kind == "winner")
    assert winner.loss == pytest.approx(sum(study_result.winner.losses) / 5)
    drawn = quality_against_cost(points, "latency", str)
    assert drawn is not None
    assert drawn.count('class="mark') == len(points)
    assert quality_against_cost(points[:1], "latency", str) is None


def test_a_picture_has_one_pixel_per_weight_and_zero_is_transparent() -> None:
    uri = image_uri(np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]]))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert image.shape == (2, 3, 4)
    assert (image[..., 3] > 0).tolist() == [[True, False, False], [True, True, False]]
    darkness = 255 - image[..., :3].mean(-1)
    assert darkness[0, 0] > darkness[1, 1] > darkness[1, 0]


def test_reach_by_hand() -> None:
    # one query sees itself alone; the other two keys alike, at distances 1 and 0
    assert reach_text(np.array([[1.0, 0.0], [0.5, 0.5]])) == "looks 0.2 tokens away, at 1.5 keys"
    # a memory of one key before the two queries, and a query that sees nothing
    assert reach_text(np.array([[1.0, 0, 0], [0, 0, 0]])) == "looks 1.0 tokens away, at 1.0 keys"
    assert reach_text(np.zeros((2, 2))) == "looks at nothing"


@pytest.mark.parametrize(
    ("tokens", "shape", "message"),
    [
        ((), (1, 0, 0), "at least one token"),
        (("a", "b"), (1, 3, 3), r"layer 0 .* needs weights \[heads, 2 tokens, keys\], got the shape \(1, 3, 3\)"),
        (("a", "b"), (2, 2), "got the shape"),
        (("a", "b"), (1, 2, 1), "got the shape"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tokens: tuple[str, ...], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        AttentionPicture(tokens=tokens, layers=(np.ones(shape),))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SpecError, match="not finite"):
        AttentionPicture(tokens=("a",), layers=(np.full((1, 1, 1), math.nan),))


def test_labels_show_what_cannot_be_seen() -> None:
    assert [visible(token) for token in (" a", "\n", "\t", "", "\x00", "extraordinarily")] == [
        "␣a",
        "↵",
        "⇥",
        "∅",
        "�",
        "extraordina…",
    ]


def test_the_card_holds_the_numbers_and_survives_awkward_text(study_result: StudyResult) -> None:
    card = model_card(study_result)
    assert card.startswith("---\nlibrary_name: attentune\n")
    assert "| **this model's recipe** | 1.6971 ± 0.0035 | 806,208 | 1.91 ms |" in card
    assert "| scores | −0.0020 ± 0.0022 | noise |" in card
    assert "attentune generate runs/shakespeare/best --prompt ROMEO:\n" in card
    assert "combine=gate`" in card
    assert "\n\n\n" not in card
    assert "optuna 5.0.0\n\n```\nattentune optimize" in card
    assert fenced("a\n```\nb").startswith("````\n")
    assert cell("a | b") == "`a \\| b`"


def test_ticks_that_the_short_form_cannot_tell_apart_are_written_out() -> None:
    assert tick_texts((803_900.0, 804_000.0), short_count) == [(803_900.0, "803,900"), (804_000.0, "804,000")]
    assert tick_texts((1e6, 2e6), short_count) == [(1e6, "1M"), (2e6, "2M")]
