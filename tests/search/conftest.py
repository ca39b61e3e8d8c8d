"""A made-up study with realistic numbers, for the tests of the ledger, the report and the card."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from attentune.search.analysis import difference
from attentune.search.pictures import AttentionPicture, ReportPictures
from attentune.search.result import (
    ArmResult,
    Constraint,
    DataResult,
    DeploymentCheck,
    ObjectiveResult,
    Sample,
    Scalar,
    StageResult,
    StudyResult,
    TrialRecord,
    TrialStage,
)

SEEDS = (0, 1, 2, 3, 4)
BASELINE = "heads=4, position=none, mask=causal, normalizer=softmax"
WINNER = (
    "heads=4, position=rotary, mask=causal & window(32), scores=cap(30), normalizer=softmax_off_by_one, combine=gate"
)
SLOTS = {"position": 0.041, "normalizer": 0.004, "combine": 0.018, "scores": -0.002, "mask": 0.009}


def curve(final: float, rate: float, tokens: int = 1_536_000, points: int = 24) -> tuple[tuple[int, float], ...]:
    """A learning curve that falls from about 4.2 to exactly `final`."""
    steps = np.linspace(0, 1, points + 1)
    shape = (np.exp(-rate * steps) - math.exp(-rate)) / (1 - math.exp(-rate))
    return tuple(
        (int(tokens * step), round(final + (4.2 - final) * float(height), 6))
        for step, height in zip(steps, shape, strict=True)
    )


def make_arm(name: str, attention: str, settings: dict[str, Scalar], mean: float, spread: float) -> ArmResult:
    """A finalist whose losses lie around `mean`."""
    offsets = (0.3, -0.7, 1.1, -0.4, -0.3)
    losses = tuple(round(mean + spread * offset, 6) for offset in offsets[: len(SEEDS)])
    return ArmResult(
        name=name,
        attention=attention,
        settings={"attention": attention, **settings},
        seeds=SEEDS,
        losses=losses,
        bits_per_character=tuple(loss / math.log(2) for loss in losses),
        parameters=804_096 + (2_112 if "gate" in attention else 0),
        latency_ms=1.21 + 0.14 * attention.count(","),
        tokens_per_second=41_200 - 1_900 * attention.count("("),
        seconds=37.4,
        peak_bytes=212_000_000,
    )


def make_study() -> StudyResult:
    """Five finalists' seeds, 48 trials, one of each status."""
    customary: dict[str, Scalar] = {
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "schedule": "cosine",
        "batch": 12,
        "width": 128,
    }
    chosen: dict[str, Scalar] = {
        "learning_rate": 4e-3,
        "optimizer": "muon",
        "schedule": "wsd",
        "batch": 12,
        "width": 128,
    }
    baseline = make_arm("baseline", BASELINE, customary, 1.8812, 0.006)
    tuned = make_arm("tuned", BASELINE, chosen, 1.7604, 0.005)
    winner = make_arm("winner", WINNER, chosen, 1.6971, 0.004)
    ablations = tuple(
        make_arm(f"without {slot}", WINNER.replace(slot, f"no {slot}"), chosen, 1.6971 + gain, 0.0065)
        for slot, gain in SLOTS.items()
    )
    trials: list[TrialRecord] = []
    stages: tuple[TrialStage, ...] = ("objective", "adaptivity", "long range", "parameters")
    random = np.random.default_rng(0)
    for index in range(40):
        stage = stages[index // 10]
        status = "refused" if index == 13 else "failed" if index == 27 else "pruned" if index % 4 == 3 else "complete"
        attention = BASELINE if index < 10 else f"heads=4, position={('rotary', 'alibi', 't5')[index % 3]}, mask=causal"
        loss = round(2.25 - 0.011 * index + float(random.normal(0, 0.05)), 6)
        trials.append(
            TrialRecord(
                number=index,
                stage=stage,
                arm="baseline" if index < 10 else "candidate",
                status=status,
                settings={
                    "attention": attention,
                    "learning_rate": round(10 ** float(random.uniform(-3.5, -2)), 6),
                    "optimizer": ("adamw", "muon", "adafactor")[index % 3],
                    "width": 128,
                    **({"depth": 3 + index % 3} if stage == "parameters" else {}),
                },
                seeds=(0,),
                loss=None if status in ("refused", "failed") else loss,
                bits_per_character=None if status in ("refused", "failed") else loss / math.log(2),
                tokens=0 if status == "refused" else 384_000 if status != "pruned" else 96_000,
                seconds=0.0 if status == "refused" else round(9.5 + float(random.uniform(0, 4)), 2),
                tokens_per_second=None if status == "refused" else round(38_000 + float(random.uniform(-4, 4)) * 1000),
                parameters=int(804_096 * (1 + (index % 3 - 1) * 0.3 * (stage == "parameters"))),
                latency_ms=None if status == "refused" else round(1.2 + float(random.uniform(0, 0.8)), 3),
                peak_bytes=None if status == "refused" else int(2.0e8 + float(random.uniform(0, 6e7))),
                curve=() if status in ("refused", "failed") else curve(loss, 5, 384_000, 8),
                reason={
                    "refused": "kernel sdpa cannot return a learned bias; asked for by name",
                    "failed": "loss became NaN at step 212; the learning rate is too high",
                    "pruned": "worse than the median at 96,000 tokens",
                }.get(status, ""),
            )
        )
    for finalist in (baseline, tuned, winner, *ablations):
        for seed, loss in zip(finalist.seeds, finalist.losses, strict=True):
            trials.append(
                TrialRecord(
                    number=len(trials),
                    stage="evaluation",
                    arm=f"final:{finalist.name}",
                    status="complete",
                    settings=finalist.settings,
                    seeds=(seed,),
                    loss=loss,
                    bits_per_character=loss / math.log(2),
                    tokens=1_536_000,
                    seconds=37.4 + seed,
                    tokens_per_second=finalist.tokens_per_second,
                    parameters=finalist.parameters,
                    latency_ms=finalist.latency_ms,
                    peak_bytes=finalist.peak_bytes,
                    curve=curve(loss, 7 if finalist is winner else 6 if finalist is tuned else 4.5),
                )
            )
    return StudyResult(
        name="shakespeare",
        task="lm",
        command="attentune optimize --data tinyshakespeare.txt --task lm --budget 60m --out runs/shakespeare",
        versions={"attentune": "0.1.0", "python": "3.11.9", "torch": "2.13.0+cpu", "optuna": "5.0.0"},
        machine={"processor": "x86_64, 2 cores", "memory": "8 GiB", "system": "Linux 6.1", "accelerator": "none"},
        seeds=SEEDS,
        data=DataResult(
            description="tinyshakespeare.txt, 1 document, 1,115,394 characters",
            fingerprint="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            tokenizer="char",
            vocabulary=65,
            train_tokens=1_003_854,
            validation_tokens=111_540,
        ),
        objective=ObjectiveResult(
            constraints=(Constraint(cost="latency_ms", at_most=5.0), Constraint(cost="peak_bytes", at_most=1e9)),
            regularizers={"l2": 1e-4},
        ),
        protocol=(
            "The baseline got as many tuning trials as the candidates (10 and 10).",
            "Every finalist saw the same tokens, context and batch; parameters agree within 2 %.",
            "Losses are over the whole validation text, five paired seeds.",
        ),
        budget="60m",
        tokens_used=75_000_000,
        baseline=baseline,
        tuned=tuned,
        winner=winner,
        ablations=ablations,
        tuning=difference("tuning", baseline, tuned, detail="learning_rate 0.001 -> 0.004, optimizer adamw -> muon"),
        attention=difference("attention", tuned, winner),
        slots=tuple(
            difference(slot, arm, winner, detail=f"{slot} switched off")
            for slot, arm in zip(SLOTS, ablations, strict=True)
        ),
        stages=(
            StageResult(
                name="objective", summary="Minimise validation loss under two bounds.", seconds=95, tokens=3_840_000
            ),
            StageResult(
                name="adaptivity",
                summary="Tried temperature, soft cap, gates and normalizers, one slot at a time.",
                decision="kept soft cap, gate and softmax-off-by-one",
                seconds=320,
                tokens=3_840_000,
            ),
        ),
        trials=tuple(trials),
        sample=Sample(
            prompt="ROMEO:",
            text="\nWhat say you, <b>sir</b>? & I will not be so,\nThe king hath sent the noble duke to thee.",
            settings="temperature 0.8, top-k 50, seed 0",
        ),
        plan="sdpa      yes: fused, 4 heads\nreference no: slower (predicted 3.1x)\nflex      no: needs_grad on CPU",
        deployment=DeploymentCheck(
            model="runs/shakespeare/best", max_logit_difference=0.0, tolerance=1e-6, passed=True, seconds=2.1
        ),
        started=datetime(2026, 3, 1, 10, 0, tzinfo=UTC),
        finished=datetime(2026, 3, 1, 10, 0, tzinfo=UTC) + timedelta(minutes=57, seconds=12),
    )


def make_pictures() -> ReportPictures:
    """Four layers of four heads over 32 characters: uniform over the past, and a window that grows sharper."""
    tokens = tuple("First Citizen:\nBefore we proceed")

    def layers(sharpness: float, window: int) -> tuple[np.ndarray, ...]:
        query, key = np.indices((len(tokens), len(tokens)))
        made = []
        for layer in range(4):
            scores = np.stack([-sharpness * (layer + head) * abs(query - key - head * 2) for head in range(4)])
            visible = (key <= query) & (query - key < window)
            weights = np.where(visible, np.exp(scores), 0)
            made.append(weights / weights.sum(-1, keepdims=True).clip(1e-9))
        return tuple(made)

    return ReportPictures(
        baseline=AttentionPicture(tokens=tokens, layers=layers(0.02, 99)),
        winner=AttentionPicture(tokens=tokens, layers=layers(0.2, 12)),
    )


@pytest.fixture(scope="session")
def study_result() -> StudyResult:
    return make_study()


@pytest.fixture(scope="session")
def report_pictures() -> ReportPictures:
    return make_pictures()
