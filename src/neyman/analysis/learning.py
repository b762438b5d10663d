"""The training steps: one network ensemble of each process, and its up/down ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neyman.analysis.config import Config, NetworkSection
from neyman.analysis.simulation import NAMING, NOMINAL, Simulation, derive, sampled_name
from neyman.networks import MLP
from neyman.ratios import LRE, Ratio
from neyman.training import Settings

Progress = Callable[[int], None]
_SIDES = ("up", "down")


@dataclass(frozen=True)
class Training:
    """What is trained together.

    Parameters
    ----------
    sample
        The process.
    shifted
        Variation that is trained against the nominal sample; empty for the ratio of the process itself.
    systematic
        The systematic that it belongs to.
    members
        Members of the ensemble; all of them if None.
    """

    sample: str
    shifted: str = ""
    systematic: str = ""
    members: range | None = None

    def __str__(self) -> str:
        which = "" if self.members is None else f", members {', '.join(map(str, self.members))}"
        return f"{self.sample} {self.shifted}".rstrip() + which

    def section(self, config: Config) -> NetworkSection:
        """Return the networks of such a training."""
        return config.training.updown if self.shifted else config.training.nominal

    def in_groups(self, config: Config) -> list[Training]:
        """Return it in the groups of members of the configuration, for one worker each."""
        section = self.section(config)
        starts = range(0, section.ensemble, section.group)
        return [replace(self, members=range(k, min(k + section.group, section.ensemble))) for k in starts]


def estimator(section: NetworkSection) -> LRE:
    """Return the estimator of a configuration section."""
    return LRE(
        network=MLP(section.hidden),
        ensemble=section.ensemble,
        settings=Settings(
            steps=section.steps,
            batch_size=section.batch_size,
            learning_rate=section.learning_rate,
            device=section.device,
        ),
        bootstrap=section.bootstrap,
    )


def train(
    training: Training,
    simulation: Simulation,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Ratio:
    """Train ``ln p_sample(x|alpha)/q(x)``, or a shifted sample against the nominal one, on the training half.

    A stopped training goes on from `checkpoint`.
    """
    config, sample = simulation.config, training.sample
    if training.shifted:
        numerator = simulation.training(sample, training.shifted)
        denominator = simulation.training(sample, NOMINAL)
        labels = [sample, training.systematic]
        notes = {"numerator": f"{sample} {training.shifted}", "denominator": f"{sample} {NOMINAL}"}
        parameters: tuple[str, ...] = ()
    else:
        numerator = simulation.training(sample, sampled_name(config))
        denominator = simulation.mixture([simulation.training(s.name, NOMINAL) for s in config.samples])
        labels = [sample]
        names = ", ".join(s.name for s in config.samples)
        notes = {"numerator": sample, "denominator": f"equal mixture of {names}"}
        parameters = (config.conditioning.name,) if config.conditioning is not None else ()
    return estimator(training.section(config)).fit(
        numerator,
        denominator,
        parameters=parameters,
        seed=derive(config.analysis.seed, "ratio", *labels),
        notes=notes,
        members=training.members,
        checkpoint=checkpoint,
        progress=progress,
    )


@dataclass(frozen=True)
class TrainingStep:
    """A step of trainings whose networks are kept together.

    Parameters
    ----------
    name, output, key
        What it is called, where its networks are kept, and what they are made of.
    trainings
        That of a process, or those of both sides of a systematic.
    state
        File that lets it go on after an interruption.
    """

    name: str
    output: str
    key: tuple[Any, ...]
    trainings: tuple[Training, ...]
    state: Path | None = None

    @classmethod
    def shifted(cls, sample: str, systematic: str, key: tuple[Any, ...]) -> TrainingStep:
        """Return the step of ``ln p_up/p_nominal`` and ``ln p_down/p_nominal`` of a process."""
        sides = (Training(sample, systematic + suffix, systematic) for suffix in (NAMING.up, NAMING.down))
        return cls(f"train {sample} {systematic}", f"model/updown/{sample}_{systematic}", key, tuple(sides))

    @property
    def systematic(self) -> str:
        """The systematic, empty for the ratio of the process itself."""
        return self.trainings[0].systematic

    def groups(self, config: Config) -> list[Training]:
        """Return the trainings in groups of members."""
        return [group for training in self.trainings for group in training.in_groups(config)]

    def join(self, ratios: Mapping[Training, Ratio], config: Config) -> list[Ratio]:
        """Return the ratios of the trainings from those of their groups."""
        return [Ratio.join([ratios[g] for g in one.in_groups(config)]) for one in self.trainings]

    def files(self, output: Path) -> list[Path]:
        """Return the files of the up and the down network of a systematic."""
        return [output / self.output / f"{side}.safetensors" for side in _SIDES]

    def save(self, ratios: Sequence[Ratio], part: Path) -> dict[str, Any]:
        """Write the networks; returns the summary of the step."""
        if not self.systematic:
            ratios[0].save(part)
        else:
            part.mkdir()
            for ratio, side in zip(ratios, _SIDES, strict=True):
                ratio.save(part / f"{side}.safetensors")
        return {"histories": [ratio.history.to_dict() for ratio in ratios]}
