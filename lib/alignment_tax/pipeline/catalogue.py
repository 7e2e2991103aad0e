"""Which models of a preset are recorded, by words: "rsf", "l2", "hma", "remedies", ..."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignment_tax import spec as grammar
from alignment_tax.merge.layout import THIRDS
from alignment_tax.presets import Preset
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import AVERAGE, CHANGED, DISTIL, PART, PATTERN, Method, Spec, check_known

CONTROL, EARLY_STOPPING = "rsf_random", "early_stopping"
#: Stand for the plain run, its averages and every remedy that the preset records; for parts and all
#: searches for ratios.
ALL_REMEDIES, ALL_PARTS = "remedies", "parts"


def methods(preset: Preset) -> list[str]:
    """The words that `specs` takes.

    An algorithm is its rounds and averages (of the control only its rounds), a remedy its strengths
    in the preset, "remedies" the plain distilled run, its averages and all remedies, "part" or a
    search for ratios its grid, "pattern" the ratios of the paper's Fig. 9, "parts" all of these, of
    the algorithms that are named beside them, of rsf if none is.
    """
    own = [name for name, _ in preset.remedies]
    check_known(own, REMEDIES, "remedy", f", which preset {preset.name} has strengths of")
    inside = [n for n in own if REMEDIES[n].when in ("training", "model")]
    remedies = [*own, *map(grammar.averaged, own)]
    remedies += [str(Method(name, grammar.INSIDE)) for name in inside]
    plain = [DISTIL, grammar.DISTILLED_AVERAGE, ALL_REMEDIES] if preset.distil else []
    parts = [*_part_words(preset), ALL_PARTS] if preset.ratios else []
    coefs = [name for name, values in _changed(preset).items() if values]
    words = ["base", *preset.algorithms, AVERAGE, EARLY_STOPPING]
    return [*words, *parts, *coefs, *plain, *remedies]


def _changed(preset: Preset) -> dict[str, tuple[float, ...]]:
    """Other values of a number of an algorithm that are recorded."""
    coefs = preset.kl_coefs if preset.ppo else ()
    return {grammar.KL_COEF: coefs, grammar.LEARNING_RATE: preset.learning_rates}


def _part_words(preset: Preset) -> list[str]:
    grids = preset.ratios.grids if preset.ratios else ()
    return list(dict.fromkeys([PART, PATTERN, *(name for name, _, _ in grids)]))


def specs(preset: Preset, words: Sequence[str] | None = None) -> list[Spec]:
    """The models that are recorded, theta_0 always among them, each once: see `Study.specs`."""
    if words is None:
        models = [Spec("base"), Spec("sft")]
        return models + [s for name in preset.algorithms for s in _of_word(preset, name)]
    check_known(words, methods(preset), "method", f" that preset {preset.name} records")
    parts = _part_words(preset)
    wanted = [w for name in words for w in (parts if name == ALL_PARTS else [name])]
    mixed = [name for name in wanted if name in preset.algorithms and name != CONTROL] or ["rsf"]
    chosen = [Spec("sft")]
    for word in wanted:
        of_parts = [s for name in mixed for s in _of_parts(preset, word, name)]
        chosen += of_parts if word in parts else _of_word(preset, word)
    return list(dict.fromkeys(chosen))


def _of_word(preset: Preset, word: str) -> list[Spec]:
    """The models of one word that is neither a part nor a search."""
    if word == "base":
        return [Spec("base")]
    if word in preset.algorithms:
        end = preset.algorithms[word].rounds
        rounds = [Spec(word, r) for r in range(1, end + 1)]
        averages = [Spec(word, end, AVERAGE, alpha) for alpha in preset.alphas]
        return rounds if word == CONTROL else rounds + averages
    last = preset.rsf.rounds
    if word == EARLY_STOPPING:
        return [Spec("rsf", r) for r in range(1, last + 1)]
    if word in CHANGED:
        owner, values = CHANGED[word], _changed(preset)[word]
        end = preset.algorithms[owner].rounds
        return [Spec(owner, end, word, strength=value) for value in values]
    grids = dict(preset.remedies)
    if word == ALL_REMEDIES:
        every = [DISTIL, grammar.DISTILLED_AVERAGE, *grids]
        return [spec for each in every for spec in _of_word(preset, each)]
    found = Method.read(word)
    strengths: Sequence[float | None] = [None] if found.remedy is None else grids[found.remedy]
    alphas: Sequence[float | None] = preset.alphas if found.mix else [None]
    return [Spec("rsf", last, word, a, s) for s in strengths for a in alphas]


def _of_parts(preset: Preset, word: str, algorithm: str) -> list[Spec]:
    """The models of "part", "pattern" or a search, of one algorithm's last round."""
    if preset.ratios is None:
        return []
    if word == PART:
        # as the paper's Fig. 13: of other algorithms than RSF the thirds alone
        chosen = [g for g in preset.ratios.parts if algorithm == "rsf" or g[0] in THIRDS]
    elif word == PATTERN:
        every = [*grammar.patterns(of_start=False), *grammar.patterns(of_start=True)]
        chosen = [(grammar.ratios_text(each), (math.fsum(each) / len(each),)) for each in every]
    else:
        own = [grid for grid in preset.ratios.grids if grid[0] == word]
        chosen = [(f"K={blocks}", alphas) for _, blocks, alphas in own]
    last = preset.algorithms[algorithm].rounds
    return [Spec(algorithm, last, word, a, part=part) for part, alphas in chosen for a in alphas]
