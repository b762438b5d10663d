"""Ensembles on workers, a group of members each: the same networks on any cluster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman import EventTable
from neyman.errors import ConfigError, TrainingError
from neyman.networks import MLP, NSF, PET
from neyman.ratios import DLE, LRE, Density, Ratio
from neyman.training import Settings

SETTINGS = Settings(steps=40, batch_size=128, evaluations=4)
BOUNCING = Settings(
    steps=40, batch_size=128, optimizer="ecd", learning_rate=1e-2, optimizer_options={"nu": 1e-3}
)


def events(mean):
    x = np.random.default_rng(1).normal(mean, 1.0, (1500, 2))
    return EventTable.from_arrays({"x": x[:, 0], "y": x[:, 1]}, features=("x", "y"))


P, Q = events(0.2), events(-0.2)


def networks(one):
    return [p.detach().numpy() for p in one.model.stacks[0].parameters()]


def equal(a, b, tolerance=0.0):
    """The same networks, up to `tolerance`."""
    assert a.model.description == b.model.description
    assert a.history.steps == b.history.steps
    for x, y in zip(networks(a), networks(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0.0, atol=tolerance)
    for name in ("training", "validation"):
        np.testing.assert_allclose(
            getattr(a.history, name), getattr(b.history, name), rtol=max(tolerance, 1e-4)
        )


def test_a_lost_worker_changes_no_network(client, killing):
    lre = LRE(MLP((16, 16)), ensemble=3, settings=SETTINGS, bootstrap=True)
    steps = []
    parts = lre.fit(P, Q, seed=1, client=client, progress=steps.append)
    assert steps == [13, 26, 40]
    with killing():
        equal(lre.fit(P, Q, seed=1, client=client), parts)
    # What holds by construction is equality with the same groups; with others, to the rounding of sums.
    equal(Ratio.join([lre.fit(P, Q, seed=1, members=range(k, k + 1)) for k in range(3)]), parts)
    equal(lre.fit(P, Q, seed=1, client=client, group=2), parts, 1e-5)
    equal(lre.fit(P, Q, seed=1), parts, 1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        LRE(MLP((8,)), ensemble=2, settings=BOUNCING),
        LRE(PET(particles=1, particle_features=2, dim=8, heads=2, blocks=1), ensemble=2, settings=SETTINGS),
        DLE(NSF(transforms=1, hidden=(8,)), ensemble=2, settings=SETTINGS),
    ],
    ids=["ecd", "pet", "dle"],
)
def test_parts_are_those_of_the_whole(estimator):
    settings = {"seed": 1} if isinstance(estimator, LRE) else {"seed": 1, "denominator": None}
    arguments = (P, Q) if isinstance(estimator, LRE) else (P,)
    kind = Ratio if isinstance(estimator, LRE) else Density
    whole = estimator.fit(*arguments, **settings)
    parts = [estimator.fit(*arguments, members=range(k, k + 1), **settings) for k in range(2)]
    # A bounce multiplies a difference in the last digit.
    equal(kind.join(parts), whole, 1e-3 if "ecd" in estimator.settings.optimizer else 1e-5)


def test_densities_are_trained_on_workers(client):
    dle = DLE(NSF(transforms=1, hidden=(8,)), ensemble=2, settings=SETTINGS)
    there = dle.fit(P, Q, seed=1, client=client)
    here = dle.fit(P, Q, seed=1)
    np.testing.assert_allclose(there.log_ratio(P), here.log_ratio(P), atol=1e-4)


def test_members_that_stop_early_keep_their_last_losses():
    lre = LRE(MLP((8,)), ensemble=2, settings=Settings(steps=400, batch_size=64, evaluations=40, patience=1))
    parts = [lre.fit(P, Q, seed=1, members=range(k, k + 1)) for k in range(2)]
    history = Ratio.join(parts).history
    longest = max(len(part.history.steps) for part in parts)
    assert len(history.steps) == len(history.validation) == len(history.training) == longest
    assert history.best_step == [part.history.best_step[0] for part in parts]
    for k, part in enumerate(parts):
        assert history.validation[-1][k] == part.history.validation[-1][0]


def test_a_group_goes_on_from_its_own_checkpoint(client, tmp_path):
    lre = LRE(MLP((8,)), ensemble=2, settings=SETTINGS)
    whole = lre.fit(P, Q, seed=1, client=client)
    stopped = []

    def stop(step):
        stopped.append(step)
        if step == 25:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        lre.fit(P, Q, seed=1, members=range(1, 2), checkpoint=state, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["state.1"]
    equal(lre.fit(P, Q, seed=1, client=client, checkpoint=state), whole)
    assert not list(tmp_path.iterdir())


def test_wrong_groups_and_members_are_explained(client):
    lre = LRE(MLP((8,)), ensemble=2, settings=SETTINGS)
    with pytest.raises(ConfigError, match=r"groups of 0 members[\s\S]*at least 1"):
        lre.fit(P, Q, seed=1, client=client, group=0)
    with pytest.raises(ConfigError, match=r"no range\(1, 3\) of 2 members"):
        lre.fit(P, Q, seed=1, members=range(1, 3))
    with pytest.raises(TrainingError, match="different features"):
        lre.fit(P, EventTable.from_arrays({"z": np.zeros(9)}, features=("z",)), seed=1, client=client)


def test_a_part_of_a_stack_is_those_members():
    stack = MLP((4,)).build(inputs=2, members=3, seed=1)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    part = stack.part(range(1, 3))
    assert (part.members, part.first, part.part(range(1, 2)).first) == (2, 1, 2)
    torch.testing.assert_close(part(x), stack(x)[1:])
