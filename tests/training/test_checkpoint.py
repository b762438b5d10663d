"""A training that is stopped goes on as if it had not been; a file that cannot serve says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neyman.errors import TrainingError
from neyman.networks import MLP, StackedMLP
from neyman.training import BCE, Checkpoint, PairObjective, Sample, Settings, train

RNG = np.random.default_rng(5)
P, Q = (Sample(RNG.normal(m, 1.0, (300, 2)).astype(np.float32), np.ones(300)) for m in (0.5, -0.5))


class Stopped(Exception):
    """Stands for Ctrl-C."""


def run(settings: Settings, path: Path, stop: int | None = None, key: str = "k") -> tuple[StackedMLP, Any]:
    network = MLP((6,)).build(2, members=3, seed=1)
    objective = PairObjective(BCE(), (P, Q), (P, Q), members=3, batch_size=64, seed=2)

    def progress(step: int) -> None:
        if step == stop:
            raise Stopped

    history = train(network, objective, settings, progress=progress, checkpoint=Checkpoint(path, key))
    return network, history


@pytest.mark.parametrize(
    "settings",
    [
        Settings(steps=60, evaluations=6),
        Settings(steps=60, evaluations=6, optimizer="lion", learning_rate=1e-3),
        Settings(steps=60, evaluations=6, optimizer="ecd", learning_rate=0.3, optimizer_options={"nu": 1e-3}),
        Settings(steps=60, evaluations=6, patience=1, learning_rate=0.3, schedule="one_cycle"),
    ],
    ids=["adam", "lion", "ecd with bounces", "early stopping"],
)
def test_a_stopped_training_goes_on_bit_by_bit(settings: Settings, tmp_path: Path) -> None:
    whole, history = run(settings, tmp_path / "whole")
    path = tmp_path / "stopped.safetensors"
    with pytest.raises(Stopped):
        run(settings, path, stop=27)
    assert path.is_file()
    resumed, again = run(settings, path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert again == history
    assert not path.exists()  # a finished training leaves nothing behind


def test_the_steps_before_a_stop_are_not_taken_again(tmp_path: Path) -> None:
    settings, path = Settings(steps=40, evaluations=4), tmp_path / "c"
    with pytest.raises(Stopped):
        run(settings, path, stop=35)
    with pytest.raises(Stopped):
        run(settings, path, stop=31)  # the first step after the last evaluation, at 30
    state = Checkpoint(path, "k").read()
    assert state is not None
    assert state.step == 30
    assert state.history.steps == [10, 20, 30]


def test_files_that_cannot_serve(tmp_path: Path) -> None:
    settings, path = Settings(steps=40, evaluations=4), tmp_path / "c.safetensors"
    assert Checkpoint(path, "k").read() is None
    with pytest.raises(Stopped):
        run(settings, path, stop=20)
    with pytest.raises(TrainingError, match=r"belongs to another training\n.*\n.*\n.*delete it"):
        run(settings, path, key="other")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(
            TrainingError, match=r"(?s)checkpoint c\.safetensors is broken.*delete it to train"
        ):
            run(settings, path)
    damaged = bytearray(whole)
    damaged[-3] ^= 0x40
    path.write_bytes(bytes(damaged))
    with pytest.raises(TrainingError, match="is broken: its tensors are not those that were written"):
        run(settings, path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(TrainingError, match="is broken: 'neyman-checkpoint'"):
        run(settings, path)
    path.write_bytes(whole)
    other = MLP((7,)).build(2, members=3, seed=1)
    objective = PairObjective(BCE(), (P, Q), (P, Q), members=3, batch_size=64, seed=2)
    with pytest.raises(TrainingError, match="the checkpoint does not fit the networks"):
        train(other, objective, settings, checkpoint=Checkpoint(path, "k"))
