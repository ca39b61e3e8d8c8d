from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attentune.mechanisms import attention, registry
from attentune.spec.attention import AttentionSpec
from attentune.spec.codec import from_json, from_toml, json_schema, to_data, to_json, to_toml
from attentune.spec.masks import Mask
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.spec.run import OptimizerSpec, RunSpec
from attentune.spec.value import Frozen
from spec.drawing import attentions, masks, models
from spec.schema import complaints

# The run-time checks of shapes draw random items of containers, which concerns no example here.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
often = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seldom = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCHEMAS = {cls: json_schema(cls, registry) for cls in (AttentionSpec, LayerSpec, ModelSpec, RunSpec)}


def assert_returns(value: Frozen) -> None:
    back = from_json(type(value), to_json(value), registry)
    assert back == value
    assert hash(back) == hash(value)
    assert complaints(json.loads(to_json(value)), SCHEMAS[type(value)]) == []


@often
@given(attentions())
def test_attentions_come_back_from_text_and_json(spec: AttentionSpec) -> None:
    back = attention(str(spec))
    assert back == spec
    assert hash(back) == hash(spec)
    assert str(back) == str(spec)
    assert_returns(spec)


@often
@given(masks)
def test_composed_masks_come_back_from_text(mask: Mask) -> None:
    spec = attention("heads=1").replace(mask=mask)
    assert attention(str(spec)).mask == mask


@seldom
@given(models())
def test_models_come_back_from_json_and_toml(spec: ModelSpec) -> None:
    assert_returns(spec)
    assert from_toml(ModelSpec, to_toml(spec), registry) == spec
    assert_returns(spec.layers[0])


@seldom
@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1e3),
    tokens=st.none() | st.integers(1, 10**9),
    path=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    isolate=st.booleans(),
)
def test_runs_come_back_from_json_and_toml(
    steps: int, rate: float, tokens: int | None, path: str | None, isolate: bool
) -> None:
    run = RunSpec(
        steps=steps,
        evaluate_tokens=tokens,
        optimizer=OptimizerSpec(name="muon", learning_rate=rate),
        data={"path": path, "isolate_documents": isolate},
    )
    assert_returns(run)
    assert from_toml(RunSpec, to_toml(run), registry) == run


def test_toml_says_none_where_that_is_not_the_default() -> None:
    table = tomllib.loads(to_toml(RunSpec(evaluate_tokens=None)))
    assert table["evaluate_tokens"] == "none"
    assert "path" not in table["data"]


def test_toml_holds_attentions_as_text() -> None:
    spec = ModelSpec(vocab_size=7, width=8, depth=2, layers=(LayerSpec(attention=attention("heads=2, mask=causal")),))
    assert tomllib.loads(to_toml(spec))["layers"] == "heads=2, mask=causal"
    two = spec.replace(layers=(*spec.layers, LayerSpec(attention=attention("heads=2, mask=window(4)"))))
    assert tomllib.loads(to_toml(two))["layers"] == ["heads=2, mask=causal", "heads=2, mask=window(4)"]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("heads=8", "heads=8"),
        ("heads=multi_head(8)", "heads=8"),
        ("heads=grouped(8, 2)", "heads=8/2"),
        ("heads=8, normalizer=softmax, mask=full, similarity=scaled_dot", "heads=8"),
        ("heads=8, normalizer=softmax-off-by-one", "heads=8, normalizer=softmax_off_by_one"),
        ("heads=8, mask=(causal&window(256))|sink(keys=4)", "heads=8, mask=(causal & window(256)) | sink(4)"),
        ("heads=8, mask=causal & (window(2) & sink(1))", "heads=8, mask=causal & window(2) & sink(1)"),
        ("heads=8, mask=~~causal", "heads=8, mask=causal"),
        ("heads=8, mask=~(causal | sink(1))", "heads=8, mask=~(causal | sink(1))"),
        ("heads=4, position=rotary(base=500000.0)", "heads=4, position=rotary(base=500000.0)"),
        ("heads=4, position=none, scores=none", "heads=4"),
        ("heads=4, scores=qk_norm + soft_cap(50)", "heads=4, scores=qk_norm + soft_cap(50.0)"),
    ],
)
def test_one_value_has_one_text(text: str, printed: str) -> None:
    assert str(attention(text)) == printed
    assert attention(printed) == attention(text)


def test_plain_data_keeps_every_kind() -> None:
    data = to_data(attention("heads=8/2, mask=causal & window(4), scores=temperature"))
    assert data["heads"] == {"kind": "grouped", "heads": 8, "groups": 2, "head_width": None}
    assert data["mask"] == {
        "kind": "and",
        "masks": [{"kind": "causal"}, {"kind": "window", "window": 4, "symmetric": False}],
    }
    assert data["scores"] == [{"kind": "temperature", "value": 1.0, "learned": True}]
    assert data["position"] is None


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    schema = SCHEMAS[AttentionSpec]
    good = to_data(attention("heads=8/2, mask=window(4)"))
    assert complaints(json.loads(json.dumps(good)), schema) == []
    for broken in (
        {**good, "mask": {"kind": "window", "window": 0}},
        {**good, "mask": {"kind": "windw", "window": 4}},
        {**good, "colour": "red"},
        {name: held for name, held in good.items() if name != "heads"},
        {**good, "heads": {"kind": "grouped", "heads": 8}},
    ):
        assert complaints(json.loads(json.dumps(broken)), schema)
