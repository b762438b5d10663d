"""The training steps: one network ensemble of each process, and its up/down ratios."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from neyman.analysis.config import Config, NetworkSection, SystematicSection
from neyman.analysis.simulation import NAMING, NOMINAL, Simulation, derive, sampled_name
from neyman.networks import MLP
from neyman.ratios import LRE, Ratio
from neyman.training import Settings

Progress = Callable[[int], None]


def estimator(section: NetworkSection) -> LRE:
    """Return the estimator of a configuration section."""
    return LRE(
        network=MLP(section.hidden),
        ensemble=section.ensemble,
        settings=Settings(
            steps=section.steps, batch_size=section.batch_size, learning_rate=section.learning_rate
        ),
        bootstrap=section.bootstrap,
    )


def train_process(
    config: Config, simulation: Simulation, sample: str, checkpoint: Path, progress: Progress
) -> Ratio:
    """Train ``ln p_sample(x|alpha)/q(x)`` on the training half; a stopped training goes on from `checkpoint`."""
    reference = simulation.mixture([simulation.training(s.name, NOMINAL) for s in config.samples])
    numerator = simulation.training(sample, sampled_name(config))
    conditioning = config.conditioning
    return estimator(config.training.nominal).fit(
        numerator,
        reference,
        parameters=(conditioning.name,) if conditioning is not None else (),
        seed=derive(config.analysis.seed, "ratio", sample),
        notes={
            "numerator": sample,
            "denominator": "equal mixture of " + ", ".join(s.name for s in config.samples),
        },
        checkpoint=checkpoint,
        progress=progress,
    )


def train_updown(
    config: Config, simulation: Simulation, sample: str, systematic: SystematicSection, progress: Progress
) -> tuple[Ratio, Ratio]:
    """Train ``ln p_up/p_nominal`` and ``ln p_down/p_nominal`` of a process on the training half."""
    nominal = simulation.training(sample, NOMINAL)
    lre = estimator(config.training.updown)
    steps = lre.settings.steps
    ratios = []
    for k, suffix in enumerate((NAMING.up, NAMING.down)):
        shifted = simulation.training(sample, systematic.name + suffix)
        ratios.append(
            lre.fit(
                shifted,
                nominal,
                seed=derive(config.analysis.seed, "ratio", sample, systematic.name),
                notes={
                    "numerator": f"{sample} {systematic.name}{suffix}",
                    "denominator": f"{sample} {NOMINAL}",
                },
                progress=partial(_offset, progress, k * steps),
            )
        )
    return ratios[0], ratios[1]


def _offset(progress: Progress, before: int, step: int) -> None:
    progress(before + step)


def summarise(*ratios: Ratio) -> dict[str, Any]:
    """Return the histories for the step's summary."""
    return {"histories": [ratio.history.to_dict() for ratio in ratios]}
