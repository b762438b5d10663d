"""All variations in one evaluation: the scores of separate calls, equal rows scored once."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman import Scorer
from neyman.errors import InputError
from neyman.events.scoring import variations as module


@pytest.fixture
def rows(monkeypatch):
    """How many rows each evaluation had."""
    counts = []
    original = module.session

    def counted(reference, options):
        session = original(reference, options)

        def call(inputs):
            counts.append(len(inputs))
            return session(inputs)

        return call

    monkeypatch.setattr(module, "session", counted)
    return counts


def test_separate_calls_agree_bit_by_bit(tmp_path, save, events, rows):
    save(members=5)
    scorer = Scorer.load(tmp_path)
    variations = {
        "jesUp": ak.with_field(events, events.a * 1.02, "a"),
        "nominal": events,
        "jesDown": ak.with_field(events, np.where(np.arange(50) < 3, events.b + 1.0, events.b), "b"),
        "selected": events[events.a > 0],
        "none": events[:0],
    }
    together = scorer.many(variations)
    assert list(together) == list(variations)
    selected = int(ak.sum(events.a > 0))
    assert rows == [50 + 50 + 3 + selected]
    for name, own in variations.items():
        assert np.array_equal(together[name], scorer(own))
        assert together[name].dtype == np.float32


def test_equal_variations_cost_nothing_and_share_nothing(tmp_path, save, events, rows):
    save()
    out = Scorer.load(tmp_path).many({"nominal": events, "pileupUp": events})
    assert rows == [50]
    out["nominal"][:] = 0.0
    assert (out["pileupUp"] != 0.0).all()


def test_zeros_of_both_signs_are_different_rows(tmp_path, save, rows):
    save()
    zero = np.zeros((4, 2), dtype=np.float32)
    Scorer.load(tmp_path).many({"nominal": zero, "minus": -zero})
    assert rows == [8]


@settings(max_examples=30)
@given(
    base=st.lists(st.integers(0, 2), max_size=9),
    changes=st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=4), max_size=4),
    short=st.booleans(),
)
def test_any_variations(tmp_path_factory, make, base, changes, short):
    folder = tmp_path_factory.mktemp("any")
    make(features=("a",)).save(folder / "m.safetensors")
    scorer = Scorer.load(folder)
    nominal = np.array(base, dtype=np.float32)[:, None]
    variations = {"first": nominal}
    for k, own in enumerate(changes):
        x = nominal.copy()
        for row, value in own:
            x[row : row + 1] = value
        variations[f"v{k}"] = x[: len(x) - (short and k == 0)]
    together = scorer.many(variations)
    for name, x in variations.items():
        assert np.array_equal(together[name], scorer(x))


def test_errors_name_the_variation(tmp_path, save, events):
    save()
    bad = ak.with_field(events, np.where(np.arange(50) == 7, np.nan, events.b), "b")
    with pytest.raises(InputError, match=r"(?s)'b' is not finite.*variation 'jesUp', event 7; 1 of 50"):
        Scorer.load(tmp_path).many({"nominal": events, "jesUp": bad})


def test_several_models_and_nuisance_parameters(tmp_path, save, events, x):
    one, two = save("one"), save("two", parameters=("tes",), seed=2)
    scorer = Scorer.load(tmp_path)
    out = scorer.many({"nominal": events, "up": events[::2]}, {"tes": 0.5})
    np.testing.assert_allclose(out["up"].one, one(x[::2]), atol=1e-6)
    np.testing.assert_allclose(out["nominal"].two, two(x, [0.5]), atol=1e-6)


def test_no_variations(tmp_path, save):
    save()
    assert Scorer.load(tmp_path).many({}) == {}
