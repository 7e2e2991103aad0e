"""Which models of a preset are recorded, by words: "rsf", "l2", "hma", "remedies", ..."""

import math
from collections.abc import Sequence
from dataclasses import replace

from alignment_tax import spec as grammar
from alignment_tax.merge.layout import THIRDS
from alignment_tax.presets import Preset
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import AVERAGE, CHANGED, DISTIL, PART, PATTERN, Method, Spec, check_known

CONTROL, EARLY_STOPPING = "rsf_random", "early_stopping"
#: Stand for the plain run, its averages and every remedy; for parts and all searches for ratios.
ALL_REMEDIES, ALL_PARTS = "remedies", "parts"


def methods(preset: Preset) -> dict[str, list[Spec]]:
    """The words that `specs` takes, and their models; words of parts and searches hold none here.

    An algorithm is its rounds and averages (of the control only its rounds), a remedy its strengths
    in the preset, "remedies" the distilled run, its averages and all remedies, "part" or a search
    its grid, "pattern" the ratios of Fig. 9, "parts" all these, of algorithms named beside or rsf.
    """
    last, grids = preset.rsf.rounds, dict(preset.remedies)
    check_known(grids, REMEDIES, "remedy", f", which preset {preset.name} has strengths of")

    def remedied(word: str) -> list[Spec]:
        method = Method.read(word)
        strengths: Sequence[float | None] = grids[method.remedy] if method.remedy else [None]
        alphas: Sequence[float | None] = preset.alphas if method.mix else [None]
        return [Spec("rsf", last, word, a, s) for s in strengths for a in alphas]

    found = {"base": [Spec("base")]}
    for name, config in preset.algorithms.items():
        averages = [Spec(name, config.rounds, AVERAGE, alpha) for alpha in preset.alphas]
        scored = {*range(1, config.rounds + 1, preset.score_every), config.rounds}
        if name == CONTROL and preset.score_every > 1:
            scored = {config.rounds}
        found[name] = [Spec(name, r) for r in sorted(scored)]
        found[name] += [] if name == CONTROL else averages
    found |= {AVERAGE: remedied(AVERAGE), EARLY_STOPPING: found["rsf"][:last]}
    if preset.ratios:
        found |= {word: [] for word in (*_part_words(preset), ALL_PARTS)}
    coefs = preset.kl_coefs if preset.ppo else ()
    for word, values in ((grammar.KL_COEF, coefs), (grammar.LEARNING_RATE, preset.learning_rates)):
        if values:
            end = Spec(CHANGED[word], preset.algorithms[CHANGED[word]].rounds, word)
            found[word] = [replace(end, strength=value) for value in values]
    plain = [DISTIL, grammar.DISTILLED_AVERAGE]
    if preset.distil:
        found |= {word: remedied(word) for word in plain}
        found[ALL_REMEDIES] = [spec for word in (*plain, *grids) for spec in remedied(word)]
    inside = [name for name in grids if REMEDIES[name].when in ("training", "model")]
    words = [*grids, *map(grammar.averaged, grids)]
    words += [str(Method(name, grammar.INSIDE)) for name in inside]
    return found | {word: remedied(word) for word in words}


def _part_words(preset: Preset) -> list[str]:
    grids = preset.ratios.grids if preset.ratios else ()
    return list(dict.fromkeys([PART, PATTERN, *(name for name, _, _ in grids)]))


def specs(preset: Preset, words: Sequence[str] | None = None) -> list[Spec]:
    """The models that are recorded, theta_0 always among them, each once: see `Study.specs`."""
    models = methods(preset)
    if words is None:
        of_algorithms = [spec for name in preset.algorithms for spec in models[name]]
        return [Spec("base"), Spec("sft"), *of_algorithms]
    check_known(words, models, "method", f" that preset {preset.name} records")
    parts = _part_words(preset)
    wanted = [w for name in words for w in (parts if name == ALL_PARTS else [name])]
    mixed = [name for name in wanted if name in preset.algorithms and name != CONTROL] or ["rsf"]
    chosen = [Spec("sft")]
    for word in wanted:
        of_parts = [s for name in mixed for s in _of_parts(preset, word, name)]
        chosen += of_parts if word in parts else models[word]
    return list(dict.fromkeys(chosen))


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
