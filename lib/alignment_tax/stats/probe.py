"""What a linear probe reads from hidden states. Alain and Bengio 2016 (1610.01644)."""

from collections.abc import Sequence

import numpy as np

from alignment_tax.stats.pareto import Array

FOLDS = 5
#: Of the ridge regression, on states of variance 1.
RIDGE = 300.0


def probe(hidden: Array, choices: Sequence[Sequence[str]], answers: Sequence[int]) -> Array:
    """Return whether a probe has each question right, bool (n,).

    `hidden` (n, d) is a state of each, `choices` its words, `answers` the place of the right one.
    A ridge regression from states to answers has seen four fifths of the questions, and takes the
    likeliest choice of the others: what it knows of those it has from their states alone.
    """
    words = sorted({word for each in choices for word in each})
    wanted = np.zeros((len(choices), len(words)))
    for place, (own, answer) in enumerate(zip(choices, answers, strict=True)):
        wanted[place, words.index(own[answer])] = 1
    states = (hidden - hidden.mean(axis=0)) / (hidden.std(axis=0) + 1e-9)
    fold, right = np.arange(len(choices)) % FOLDS, np.zeros(len(choices), dtype=bool)
    for each in range(FOLDS):
        seen = states[fold != each]
        kernel = seen @ seen.T + RIDGE * np.eye(len(seen))
        learnt = seen.T @ np.linalg.solve(kernel, wanted[fold != each])
        for row in np.flatnonzero(fold == each).tolist():
            scores = states[row] @ learnt[:, [words.index(word) for word in choices[row]]]
            right[row] = scores.argmax() == answers[row]
    return right
