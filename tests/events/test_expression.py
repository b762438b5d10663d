"""Expressions agree with Python's own evaluation of the same text, and nothing else can be reached."""

from __future__ import annotations

from contextlib import suppress

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import ConfigError
from neyman.events.expression import FUNCTIONS, MAX_DEPTH, evaluate, names

RNG = np.random.default_rng(5)
COLUMNS = {
    "pt": RNG.exponential(30.0, 200),
    "eta": RNG.normal(0.0, 2.0, 200),
    "n": RNG.integers(0, 5, 200),
    "tag": RNG.random(200) < 0.5,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pt + 2 * eta - n / 4", lambda c: c["pt"] + 2 * c["eta"] - c["n"] / 4),
        ("-pt ** 2 % 7", lambda c: -(c["pt"] ** 2) % 7),
        ("2 ** -1 * pt", lambda c: 0.5 * c["pt"]),
        ("pt > 20 and abs(eta) < 2.4", lambda c: (c["pt"] > 20) & (abs(c["eta"]) < 2.4)),
        ("(pt > 20) & ~tag | (n == 0)", lambda c: (c["pt"] > 20) & ~c["tag"] | (c["n"] == 0)),
        ("not tag or n != 2", lambda c: ~c["tag"] | (c["n"] != 2)),
        ("1 <= n < 3 < pt", lambda c: (c["n"] >= 1) & (c["n"] < 3) & (c["pt"] > 3)),
        ("hypot(pt, eta)", lambda c: np.hypot(c["pt"], c["eta"])),
        ("arctan2(sin(eta), cos(eta)) + tan(0)", lambda c: np.arctan2(np.sin(c["eta"]), np.cos(c["eta"]))),
        ("where(tag, sqrt(pt), exp(-pt))", lambda c: np.where(c["tag"], np.sqrt(c["pt"]), np.exp(-c["pt"]))),
        ("minimum(maximum(pt, 10), 50)", lambda c: np.clip(c["pt"], 10, 50)),
        ("log10(pt) - log(pt) / log(10)", lambda c: np.zeros_like(c["pt"])),
        ("True and tag", lambda c: c["tag"]),
    ],
)
def test_value(text, expected):
    np.testing.assert_allclose(evaluate(text, COLUMNS), expected(COLUMNS), rtol=1e-14, atol=1e-14)
    jagged = {name: ak.unflatten(column, 4) for name, column in COLUMNS.items()}
    np.testing.assert_allclose(ak.flatten(evaluate(text, jagged)), expected(COLUMNS), rtol=1e-14, atol=1e-14)


def test_names_are_columns_only():
    assert names("abs(eta) < 2.4 and pt / eta > where(tag, 1, 2)") == ("eta", "pt", "tag")
    assert names("1 + 2") == ()


def test_undefined_values_are_nan_without_a_warning():
    assert np.isnan(evaluate("log(x)", {"x": np.array([-1.0])})).all()


def test_a_tower_of_powers_ends_at_once():
    assert evaluate("9 ** 9 ** 9 ** 9", {}) == np.inf


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "pt.__class__",
        "pt[0]",
        "[pt, eta]",
        "(lambda: 1)()",
        "'text'",
        "f'{pt}'",
        "(x := 3)",
        "pt if tag else eta",
        "pt @ eta",
        "pt // 2",
        "pt << 2",
        "pt is eta",
        "n in (1, 2)",
        "abs(x=pt)",
        "abs(*pt)",
        "1j * pt",
        "None",
        "{pt}",
        "[p for p in pt]",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match=r"not allowed|unknown function|takes 1 argument"):
        evaluate(text, COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("pt >", "not an expression"),
        ("import os", "not an expression"),
        ("pt\x00", "not an expression"),
        ("pt" + " + pt" * 400, "characters"),
        ("-" * (MAX_DEPTH + 1) + "pt", "nested too deeply"),
        ("(" * 400 + "pt" + ")" * 400, "not an expression"),
        ("ptt > 3", r"unknown name 'ptt'[\s\S]*expected: pt"),
        ("cosh(pt)", r"unknown function 'cosh'[\s\S]*cos"),
        ("hypot(pt)", "hypot takes 2 arguments, got 1"),
        ("pt > 1 & eta < 2", r"cannot compute[\s\S]*brackets"),
        ("-tag", "cannot compute"),
        ("short + pt", "cannot compute"),
    ],
)
def test_errors(text, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(text, COLUMNS | {"short": np.zeros(3)})


@given(st.text(alphabet="pteta()+-*/%<>=!&|~.,'[]{}:_ 0123456789andornotabs", max_size=60))
def test_random_text_gives_a_value_or_our_error(text):
    with suppress(ConfigError):
        evaluate(text, COLUMNS)


def test_functions_exist_with_their_number_of_arguments():
    for name, (count, _) in FUNCTIONS.items():
        evaluate(f"{name}({', '.join(['pt'] * count)})", COLUMNS)
