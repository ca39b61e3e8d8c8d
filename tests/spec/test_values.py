from __future__ import annotations

import pytest

from attentune.errors import SpecError
from attentune.mechanisms import attention, layer, registry
from attentune.mechanisms.causal import Causal
from attentune.mechanisms.window import Window
from attentune.spec.attention import AttentionSpec
from attentune.spec.codec import from_data, from_json, from_toml
from attentune.spec.masks import And, Not
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.spec.run import RunSpec


def test_values_are_frozen() -> None:
    spec = attention("heads=8, mask=causal")
    for value, name in ((spec, "mask"), (spec.mask, "kind"), (RunSpec(), "steps")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(value, name, None)
    with pytest.raises(ValueError, match="frozen"):
        del spec.heads


def test_equal_values_are_one_key() -> None:
    first, second = (
        attention("heads=8/2, mask=causal & window(4)"),
        attention("mask=causal & window(window=4), heads=8/2"),
    )
    assert first == second
    assert len({first, second, attention("heads=8/2, mask=causal & window(5)")}) == 2
    assert Window(window=4) != Causal()


def test_replace_is_validated_and_leaves_the_old_value_alone() -> None:
    spec = attention("heads=8, mask=causal")
    assert str(spec.replace(mask=Window(window=3))) == "heads=8, mask=window(3)"
    assert str(spec) == "heads=8, mask=causal"
    with pytest.raises(SpecError, match=r"AttentionSpec.masc is unknown; did you mean 'mask'"):
        spec.replace(masc=Causal())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "heads=8, mask=windw(4)",
            r"mask=windw is unknown; did you mean 'window'",
        ),
        ("heads=8, mask=rotary", r"mask=rotary is unknown; rotary belongs in position"),
        ("heads=8, msk=causal", r"unknown slot 'msk'; did you mean 'mask'"),
        ("heads=8, mask=window(0)", r"window\.window: .*greater than 0, got 0"),
        ("heads=8, mask=window", r"window\.window is required"),
        ("heads=8, mask=window(size=4)", r"window\.size is unknown; "),
        ("heads=8, mask=window(1, false, 2)", r"at most 2 fields \(window, symmetric\)"),
        ("heads=8, mask=window(4, window=5)", r"field 'window' is given twice"),
        ("heads=8, heads=4", r"slot 'heads' is given twice|keyword argument repeated"),
        ("heads=8/3", r"groups must divide heads, got heads=8, groups=3"),
        ("mask=causal", r"an attention needs its heads"),
        ("heads=8, mask=causal &", r"cannot read 'heads=8, mask=causal &' at character"),
        ("8", r"write slot=value, slot=value; slots: heads"),
        ("heads=8, mask=window(open('x'))", r"mask: expected a number, a name or text, got \"open\('x'\)\""),
        ("heads=8, mask=[causal]", r"mask: expected a name such as those of"),
        ("heads=8, scores=qk_norm + qk_norm", r"scores holds qk_norm more than once"),
        ("heads=8, memory=transformer_xl(4), selector=top_k_blocks(2, 2), mask=causal", r"count positions differently"),
    ],
)
def test_mistakes_in_text_name_the_rule_the_value_and_near_names(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        attention(text)
    assert "\n" not in str(error.value)


def test_text_is_never_run() -> None:
    for text in ("heads=__import__('os').getpid()", "heads=(lambda: 8)()", "heads=8 if True else 4"):
        with pytest.raises(SpecError):
            attention(text)


def test_mistakes_in_data_name_their_place() -> None:
    with pytest.raises(SpecError, match=r"attention\.positon is unknown; did you mean 'position'"):
        from_data(AttentionSpec, {"heads": "8", "positon": "rotary"}, registry)
    with pytest.raises(SpecError, match=r"heads: expected text or a table with kind = \.\.\., got 1\.5"):
        from_data(AttentionSpec, {"heads": 1.5}, registry)
    with pytest.raises(SpecError, match=r"model\.widht is unknown; did you mean 'width'"):
        from_data(ModelSpec, {"vocab_size": 5, "widht": 8, "layers": "heads=2"}, registry)
    with pytest.raises(SpecError, match=r"not JSON: .* at line 1, column 2"):
        from_json(RunSpec, "{steps}", registry)
    with pytest.raises(SpecError, match=r"not TOML: .*line 1"):
        from_toml(RunSpec, "steps = = 5\nseed = 1", registry)
    with pytest.raises(SpecError, match=r"accumulate must divide batch, got batch=12, accumulate=5"):
        RunSpec(accumulate=5)
    with pytest.raises(SpecError, match=r"steps: .*got 0"):
        from_toml(RunSpec, "steps = 0", registry)


def test_a_slot_may_be_text_inside_a_table() -> None:
    spec = from_data(
        AttentionSpec, {"heads": 8, "mask": "causal & window(4)", "scores": ["qk_norm", "soft_cap(9)"]}, registry
    )
    assert spec == attention("heads=8, mask=causal & window(4), scores=qk_norm + soft_cap(9)")


def test_rules_of_a_model() -> None:
    def model(*texts: str, **changes: object) -> ModelSpec:
        fields = {"vocab_size": 5, "width": 8, "depth": 2, **changes}
        return ModelSpec(layers=tuple(map(layer, texts)), **fields)  # type: ignore[arg-type]

    with pytest.raises(SpecError, match="heads must divide the width, got heads=3, width=8"):
        model("heads=3")
    with pytest.raises(SpecError, match="layers names 3 different layers, more than depth=2"):
        model("heads=1", "heads=2", "heads=4")
    with pytest.raises(SpecError, match="share=position needs the same position"):
        model("heads=2, position=t5", "heads=2, position=alibi", share=("position",))
    with pytest.raises(SpecError, match="every layer needs it, with equal heads"):
        model("heads=2, scores=residual_scores", "heads=2")
    with pytest.raises(SpecError, match="every layer needs the same memory"):
        model("heads=2, mask=causal, memory=transformer_xl(4)", "heads=2, mask=causal")
    with pytest.raises(SpecError, match="share=position needs a position in the layers' attention, got none"):
        model("heads=2", share=("position",))
    with pytest.raises(SpecError, match="every layer needs the same similarity"):
        model("heads=2, scores=residual_scores", "heads=2, scores=residual_scores, similarity=scaled_dot(scale=2)")
    with pytest.raises(SpecError, match="position=learned ends at the context, but a memory goes on beyond it"):
        model("heads=2, mask=causal, memory=transformer_xl(4)", position="learned")
    with pytest.raises(SpecError, match="layers"):
        model()
    assert model("heads=1", "heads=2").layer(3).attention.heads.heads == 2


@pytest.mark.parametrize("slot", ["position=rotary", "position=alibi", "mask=causal", "mask=~(full & window(3))"])
def test_cross_attention_refuses_what_needs_an_order(slot: str) -> None:
    with pytest.raises(SpecError, match=r"no common order of queries and keys: .* has no meaning"):
        layer(f"heads=2, mask=causal, cross=attention(heads=2, {slot})")


def test_cross_attention_refuses_scores_that_no_layer_hands_on() -> None:
    with pytest.raises(SpecError, match="scores=residual_scores would do nothing"):
        layer("heads=2, mask=causal, cross=attention(heads=2, scores=residual_scores)")


def test_residual_scores_come_before_whatever_changes_scores() -> None:
    for scores in ("soft_cap(9) + residual_scores", "soft_cap(9) + residual_scores + qk_norm"):
        with pytest.raises(SpecError, match="residual_scores must stand before every other score"):
            attention(f"heads=2, scores={scores}")
    assert attention("heads=2, scores=qk_norm + residual_scores + soft_cap(9)").scores[1].kind == "residual_scores"


@pytest.mark.parametrize(
    "text",
    ["scores=soft_cap(inf)", "scores=temperature(inf)", "similarity=scaled_dot(inf)", "position=rotary(base=inf)"],
)
def test_infinite_numbers_would_give_nan_and_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="finite number, got inf"):
        attention(f"heads=2, {text}")


def test_composed_masks_have_one_form() -> None:
    a, b, c = Causal(), Window(window=2), Window(window=3)
    assert And(masks=(a, And(masks=(b, c)))) == And(masks=(a, b, c)) == a & b & c
    assert ~~a == a
    with pytest.raises(SpecError, match="a mask hidden twice is the mask itself"):
        Not(mask=Not(mask=a))
    with pytest.raises(SpecError, match="needs at least 2 masks, got 1"):
        And(masks=(a,))


def test_lookahead_bounds_what_a_composition_shows() -> None:
    def ahead(text: str) -> int | None:
        return attention(f"heads=1, mask={text}").mask.lookahead

    assert ahead("causal & full") == 0
    assert ahead("causal | prefix(5)") == 5
    assert ahead("sink(2) | prefix(5)") == 5
    assert ahead("sink(2) & prefix(5)") == 2
    assert ahead("causal | full") is None
    assert ahead("~sink(2)") is None
    assert ahead("causal & ~sink(2)") == 0


def test_a_layer_may_hold_branches_alone_but_not_nothing() -> None:
    alone = layer("branches=lstm")
    assert alone.attention is None
    assert str(alone) == "branches=lstm"
    with pytest.raises(SpecError, match="a layer needs an attention, such as heads=8, or branches"):
        LayerSpec(attention=None)
    with pytest.raises(SpecError, match="an attention needs its heads"):
        layer("branches=lstm, mask=causal")


def test_layers_of_mixers_and_of_attention_alternate() -> None:
    spec = ModelSpec(vocab_size=5, width=8, depth=4, layers=(layer("branches=lstm"), layer("heads=2, mask=causal")))
    assert [attention.heads.heads for attention in spec.attentions] == [2]
    with pytest.raises(SpecError, match="share=position needs a position"):
        ModelSpec(vocab_size=5, width=8, layers=(layer("branches=lstm"),), share=("position",))


def test_the_text_of_one_slot_may_not_name_another() -> None:
    with pytest.raises(SpecError, match=r"mask: expected one value, got 'causal, heads=3', which says mask, heads"):
        from_data(AttentionSpec, {"heads": "2", "mask": "causal, heads=3"}, registry)


def test_heads_of_a_mixer_must_divide_the_width() -> None:
    with pytest.raises(SpecError, match=r"heads must divide the width"):
        ModelSpec(vocab_size=5, width=8, layers=(layer("branches=linear_attention(heads=3)"),))
