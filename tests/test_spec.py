"""Which model is meant: what the columns method and part say, and that they are read as written."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment_tax import presets
from alignment_tax.pipeline import catalogue
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import (
    AVERAGE,
    DISTILLED,
    INSIDE,
    KL_COEF,
    NAMED,
    Method,
    Spec,
    averaged,
    has_ratios,
    ratios_in,
    ratios_text,
    simplest,
)

WORDS = {
    "none": Method(),
    "average": Method(mix="average"),
    "part": Method(mix="part"),
    "hma": Method(mix="hma"),
    "hma_kl_other": Method(mix="hma_kl_other"),
    "adamerging": Method(mix="adamerging"),
    "pattern": Method(mix="pattern"),
    "kl_coef": Method(protocol=KL_COEF),
    "distil": Method(None, DISTILLED),
    "distil+average": Method(None, DISTILLED, AVERAGE),
    "l2": Method("l2", DISTILLED),
    "kl": Method("kl", DISTILLED),
    "graft_random+average": Method("graft_random", DISTILLED, AVERAGE),
    "l2_in_rounds": Method("l2", INSIDE),
    "l2_in_rounds+average": Method("l2", INSIDE, AVERAGE),
}


@pytest.mark.parametrize(("text", "method"), WORDS.items())
def test_a_method_is_read_as_it_is_written(text, method):
    assert Method.read(text) == method
    assert str(method) == text
    spec = Spec("rsf", 6, text)
    assert (spec.remedy, spec.protocol, spec.mix) == method
    assert [Spec(name).protocol for name in ("base", "sft", "rsf")] == ["base", "sft", "rounds"]


@given(
    st.sampled_from([None, *REMEDIES]),
    st.sampled_from([DISTILLED, INSIDE]),
    st.sampled_from([None, AVERAGE]),
)
def test_every_remedy_by_every_protocol_survives_its_text(remedy, protocol, mix):
    method = Method(remedy, DISTILLED if remedy is None else protocol, mix)
    # `average` as a remedy is the mix of the plain run: it has no word of its own
    if remedy != "average":
        assert Method.read(str(method)) == method
        assert Method.read(averaged(str(method._replace(mix=None)))) == method._replace(mix=AVERAGE)


def every_spec():
    """All specs that the presets name, each word's among them."""
    found = []
    for name in ("smoke", "tiny", "small"):
        preset = presets.get(name)
        found += [s for w in catalogue.methods(preset) for s in catalogue.specs(preset, [w])]
        found += catalogue.specs(preset, [*preset.algorithms, *["parts"] * bool(preset.ratios)])
    return list(dict.fromkeys(found))


def as_stored(spec):
    """The row of a spec after a CSV file."""
    text = pd.DataFrame([{"seed": 0, **spec.row}], columns=NAMED).to_csv(index=False)
    return pd.read_csv(io.StringIO(text)).iloc[0].to_dict()


@given(st.sampled_from(every_spec()))
def test_every_spec_of_the_presets_survives_its_row(spec):
    again = Spec.of_row(as_stored(spec))
    assert again == spec
    # a rank stays whole: it is part of an artifact's key
    assert type(again.strength) is type(spec.strength)


ratio_lists = st.lists(st.floats(0, 1), min_size=2, max_size=9)
fixed_ratios = st.dictionaries(st.sampled_from(["head", "norms"]), st.floats(0, 1))


@given(ratio_lists, fixed_ratios, st.floats(0, 1))
def test_ratios_survive_the_row_to_the_last_digit(ratios, fixed, alpha):
    spec = Spec("rsf", 6, "hma", alpha, part=ratios_text(ratios, fixed))
    assert Spec.of_row({"seed": 0, **spec.row}) == spec
    assert ratios_in(spec) == (tuple(ratios), fixed)


@given(st.sampled_from(every_spec()))
def test_the_simplest_spec_and_the_end_are_simple_already(spec):
    assert spec.end.end == spec.end
    assert spec.end.mix is None
    assert spec.end.protocol == spec.protocol
    if not (has_ratios(spec) and spec.part.startswith("K=")):
        assert simplest(simplest(spec)) == simplest(spec)


def test_the_simplest_specs_by_hand():
    end = Spec("rsf", 6)
    for spec, simple in (
        (Spec("rsf", 6, "average", 0.0), Spec("sft")),
        (Spec("rsf", 6, "average", 1.0), end),
        (Spec("rsf", 6, "part", 1.0, part="head"), end),
        (Spec("rsf", 6, "part", 0.0, part="head"), Spec("rsf", 6, "part", 0.0, part="head")),
        (Spec("rsf", 6, "hma_kl", 0.5, part="0.5|0.5"), Spec("rsf", 6, "average", 0.5)),
        (Spec("rsf", 6, "hma_kl", 0.5, part="0.7|0.3"), Spec("rsf", 6, "hma", 0.5, part="0.7|0.3")),
        (Spec("rsf", 6, "l2+average", 1.0, 0.1), Spec("rsf", 6, "l2", strength=0.1)),
        (Spec("rsf", 6, "l2+average", 0.0, 0.1), Spec("sft")),
    ):
        assert simplest(spec) == simple
