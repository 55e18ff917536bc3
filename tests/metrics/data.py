"""Random predictions and outcomes with the ties that break careless code."""

import numpy as np


def probabilities(n, classes, seed=0, digits=2):
    """(n, classes) rows that sum to 1, better than chance, many of them equal; and the truth."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    logits = rng.normal(size=(n, classes)) + 1.2 * (truth[:, None] == np.arange(classes))
    raw = np.exp(logits)
    rounded = np.round(raw / raw.sum(1, keepdims=True), digits) + 10.0**-digits
    return rounded / rounded.sum(1, keepdims=True), truth


def outcomes(n, seed=0, step=30.0, noise=0.7):
    """Log hazard (tied), event, time (tied, in steps of ``step`` days, about 40 % censored)."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    event_time, censor_time = rng.exponential(900 * np.exp(-risk)), rng.exponential(1200, n)
    time = np.ceil(np.minimum(event_time, censor_time) / step) * step
    return np.round(risk + noise * rng.normal(size=n), 1), event_time <= censor_time, time


def multiplicities(n, b, seed=0):
    """(b, n) unstratified draws, so that classes may go missing."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=b)


def repeated(row, *arrays):
    """Each array with its rows really repeated as often as ``row`` says."""
    return [np.repeat(array, row, axis=0) for array in arrays]
