"""Which model is meant: what the columns method and part say, and that they are read as written."""

import io
from functools import partial
from itertools import product

import pandas as pd
from conftest import golden
from hypothesis import given, strategies as st

from alignment_tax import presets, spec as specs
from alignment_tax.pipeline import catalogue
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import AVERAGE, DISTILLED, INSIDE, NAMED, Method, Spec


def test_a_method_is_read_as_it_is_written():
    for text, method in golden("methods.yaml").items():
        method = Method(*method)
        assert (Method.read(text), str(method)) == (method, text)
        spec = Spec("rsf", 6, text)
        assert (spec.remedy, spec.protocol, spec.mix) == method
    assert [Spec(name).protocol for name in ("base", "sft", "rsf")] == ["base", "sft", "rounds"]


def test_every_remedy_by_every_protocol_survives_its_text():
    # `average` as a remedy is the mix of the plain run: it has no word of its own
    remedies = [None, *(name for name in REMEDIES if name != "average")]
    for remedy, protocol, mix in product(remedies, (DISTILLED, INSIDE), (None, AVERAGE)):
        method = Method(remedy, DISTILLED if remedy is None else protocol, mix)
        assert Method.read(str(method)) == method
        average = specs.averaged(str(method._replace(mix=None)))
        assert Method.read(average) == method._replace(mix=AVERAGE)


def every_spec():
    """All specs that the presets name, each word's among them."""
    found = []
    for name in ("smoke", "tiny", "small"):
        preset = presets.get(name)
        found += [s for w in catalogue.methods(preset) for s in catalogue.specs(preset, [w])]
        found += catalogue.specs(preset, [*preset.algorithms, *["parts"] * bool(preset.ratios)])
    return list(dict.fromkeys(found))


@given(st.sampled_from(every_spec()))
def test_every_spec_of_the_presets_survives_its_row_in_a_csv_file_and_has_a_simplest(spec):
    text = pd.DataFrame([{"seed": 0, **spec.row}], columns=NAMED).to_csv(index=False)
    again = Spec.of_row(pd.read_csv(io.StringIO(text)).iloc[0].to_dict())
    assert again == spec
    # a rank stays whole: it is part of an artifact's key
    assert type(again.strength) is type(spec.strength)
    # the simplest spec and the end are simple already
    assert spec.end.end == spec.end
    assert (spec.end.mix, spec.end.protocol) == (None, spec.protocol)
    if not (specs.is_search(spec.mix) and spec.part.startswith("K=")):
        assert specs.simplest(specs.simplest(spec)) == specs.simplest(spec)


ratio_lists = st.lists(st.floats(0, 1), min_size=2, max_size=9)
fixed_ratios = st.dictionaries(st.sampled_from(["head", "norms"]), st.floats(0, 1))


@given(ratio_lists, fixed_ratios, st.floats(0, 1))
def test_ratios_survive_the_row_to_the_last_digit(ratios, fixed, alpha):
    spec = Spec("rsf", 6, "hma", alpha, part=specs.ratios_text(ratios, fixed))
    assert Spec.of_row({"seed": 0, **spec.row}) == spec
    assert specs.ratios_in(spec) == (tuple(ratios), fixed)


def test_the_simplest_specs_by_hand():
    of = partial(Spec, "rsf", 6)
    for spec, simple in (
        (of("average", 0.0), Spec("sft")), (of("average", 1.0), of()),
        (of("part", 1.0, part="head"), of()), (of("hma", 0.0, part="0|0|0"), Spec("sft")),
        (of("part", 0.0, part="head"), of("part", 0.0, part="head")),
        (of("hma_kl", 0.5, part="0.5|0.5"), of("average", 0.5)),
        (of("hma_kl", 0.5, part="0.7|0.3"), of("hma", 0.5, part="0.7|0.3")),
        (of("l2+average", 1.0, 0.1), of("l2", strength=0.1)),
        (of("l2+average", 0.0, 0.1), Spec("sft")),
    ):  # fmt: skip
        assert specs.simplest(spec) == simple
