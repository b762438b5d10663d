"""The toy of Wunsch et al. (Comput. Softw. Big Sci. 5 (2021) 4): two Gaussians, the background's second feature
shifted by the systematic; and a toy with two signals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import neyman as ny
from neyman.networks import MLP
from neyman.sannt import SANNT, Normalisation, Variation, train
from neyman.training import Settings

NETWORK = MLP((60,), "relu")
PRETRAINING = Settings(steps=300, learning_rate=1e-2, batch_size=512)
SETTINGS = Settings(steps=80, learning_rate=5e-3, validation_fraction=0.5, evaluations=16)


def gaussian(mean: float, total: float, seed: int, n: int = 4000) -> ny.EventTable:
    x = np.random.default_rng(seed).normal(mean, 1.0, (n, 2))
    return ny.EventTable(("x1", "x2"), x, np.full(n, total / n), {"entry": np.arange(n)})


SIGNAL, BACKGROUND = gaussian(0.0, 50.0, 1), gaussian(1.0, 1000.0, 2)


def moved(table: ny.EventTable, by: float, column: int = 1) -> ny.EventTable:
    x = table.x.copy()
    x[:, column] += by
    return replace(table, x=x)


SHIFT = Variation("shift", "background", moved(BACKGROUND, 1.0), moved(BACKGROUND, -1.0))


def run(variations=(SHIFT,), settings: Settings = SETTINGS, seed: int = 1, **options) -> SANNT:
    return train(
        NETWORK,
        options.pop("signal_table", SIGNAL),
        options.pop("backgrounds", {"background": BACKGROUND}),
        variations=list(variations),
        pretraining=options.pop("pretraining", PRETRAINING),
        settings=settings,
        mc_stat=options.pop("mc_stat", False),
        seed=seed,
        **options,
    )


def two_signals(n: int = 3000):
    """Signals, backgrounds and variations of a measurement with two strengths."""

    def table(mean, total, seed):
        x = np.random.default_rng(seed).normal(mean, 1.0, (n, 3))
        entry = np.arange(n) + seed * n
        return ny.EventTable(("a", "b", "c"), x, np.full(n, total / n), {"entry": entry})

    signals = {"ggH": table((0.0, 0.0, 0.0), 200.0, 1), "qqH": table((1.5, 0.0, 1.5), 40.0, 2)}
    backgrounds = {"Z": table((1.0, 1.0, 0.0), 4000.0, 3), "tt": table((2.0, 2.0, 2.0), 600.0, 4)}
    variations: list[Variation | Normalisation] = []
    for name, own in (signals | backgrounds).items():
        variations.append(Variation("shift", name, moved(own, 0.3), moved(own, -0.3)))
        tilt = 0.1 * np.tanh(own.x[:, 0])
        variations.append(
            Variation.of_weights("tilt", name, own, up=own.weight * (1 + tilt), down=own.weight * (1 - tilt))
        )
    variations += [
        Normalisation("lumi", (*signals, *backgrounds), 1.02, 0.98),
        Normalisation("Z_norm", "Z", 1.05, 0.95),
        Normalisation("tt_norm", "tt", free=True),
    ]
    return signals, backgrounds, variations


CLASSES = {"ggH": ("ggH",), "qqH": ("qqH",), "background": ("Z", "tt")}
