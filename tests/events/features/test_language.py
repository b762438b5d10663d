"""Only the language of features can be written: everything else is refused with a message, and nothing is run."""

from __future__ import annotations

from contextlib import suppress

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import ConfigError, NeymanError
from neyman.events.expression import MAX_DEPTH, evaluate
from neyman.events.features import FeatureSpec
from neyman.events.features.compiler import MAX_TOTAL_DEPTH

EVENTS = ak.Array(
    {
        "Jet": [
            [
                {"pt": 60.0, "eta": 0.5, "phi": 0.1, "mass": 9.0},
                {"pt": 40.0, "eta": -1.0, "phi": 3.0, "mass": 5.0},
            ],
            [],
            [{"pt": 25.0, "eta": 2.5, "phi": -2.0, "mass": 3.0}],
        ],
        "MET": [{"pt": 50.0, "phi": 0.0}, {"pt": 10.0, "phi": 1.0}, {"pt": 20.0, "phi": -3.0}],
        "m_vis": [90.0, 80.0, 125.0],
        "n_tag": np.array([1, 0, 2], dtype=np.uint8),
    }
)


def value(text, fill=None, **definitions):
    spec = FeatureSpec({"x": text}, fill=None if fill is None else {"x": fill}, definitions=definitions)
    return spec(EVENTS)["x"].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m_vis / 2", [45, 40, 62.5]),
        ("MET.pt", [50, 10, 20]),
        ("Jet.pt[0]", [60, -1, 25]),
        ("Jet[0].pt", [60, -1, 25]),
        ("Jet.pt[-1]", [40, -1, 25]),
        ("Jet[Jet.pt > 30 and abs(Jet.eta) < 2.4][1].pt", [40, -1, -1]),
        ("Jet[Jet.pt < MET.pt].pt[0]", [40, -1, -1]),
        ("count(Jet)", [2, 0, 1]),
        ("count(Jet[Jet.eta > 0])", [1, 0, 1]),
        ("count(Jet[1:])", [1, 0, 0]),
        ("count(Jet[:-1])", [1, 0, 0]),
        ("count(Jet.pt)", [2, 0, 1]),
        ("sum(Jet.pt)", [100, 0, 25]),
        ("sum(Jet.pt > 30)", [2, 0, 0]),
        ("max(Jet.eta)", [0.5, -1, 2.5]),
        ("min(Jet.eta)", [-1, -1, 2.5]),
        ("any(Jet.pt > 50)", [1, 0, 0]),
        ("all(Jet.pt > 50)", [0, 1, 0]),
        ("sort(Jet, Jet.eta)[0].eta", [0.5, -1, 2.5]),
        ("sort(Jet, -Jet.pt)[0].pt", [40, -1, 25]),
        ("sort(Jet.pt, -Jet.pt)[0]", [40, -1, 25]),
        ("concatenate(Jet, Jet[:1])[2].pt", [60, -1, -1]),
        ("sum(concatenate(Jet.pt, Jet.eta))", [99.5, 0, 27.5]),
        ("fill(Jet.pt[1], MET.pt)", [40, 10, 20]),
        ("fill(Jet.pt[1], 7)", [40, 7, 7]),
        ("where(count(Jet) > 1, Jet.pt[1], 3)", [40, 3, 3]),
        ("first_of(PuppiMET.pt, MET.pt)", [50, 10, 20]),
        ("first_of(PuppiMET, MET).pt", [50, 10, 20]),
        ("first_of(Tau, first_of(Boson, Jet))[0].pt", [60, -1, 25]),
        ("delta_eta(Jet[0], Jet[1])", [1.5, -1, -1]),
        ("sum(abs(delta_eta(Jet, Jet[0])))", [1.5, 0, 0]),
        ("particle(m_vis, 0, 0, 0).pt", [90, 80, 125]),
        ("pt(MET, particle(10, 0, MET.phi, 0))", [60, 20, 30]),
        ("combine(MET, MET).pt", [100, 20, 40]),
        ("count(particle(m_vis, 0, 0, 0))", [1, 1, 1]),
        ("n_tag - 2", [-1, -2, 0]),  # no unsigned wrap-around
        ("m_vis > 85 and not n_tag == 2", [1, 0, 0]),
        ("1 < count(Jet) + 1 <= 2", [0, 0, 1]),
        ("MET.pt[0]", [50, 10, 20]),  # a number stands for a list of one
        ("count(MET[MET.pt > 15])", [1, 0, 1]),
    ],
)
def test_value(text, expected):
    np.testing.assert_allclose(value(text, fill=-1), expected, rtol=1e-6)


def test_definitions_are_objects_or_numbers_in_any_order():
    definitions = {"lead": "good[0]", "good": "Jet[Jet.pt > cut]", "cut": "15 + 15", "scale": "MET.pt / 10"}
    assert value("lead.pt * scale", fill=-1, **definitions) == [300, -1, -1]
    assert value("count(good)", **definitions) == [2, 0, 0]
    assert value("count(list)", list="sort(good, good.eta)", **definitions) == [2, 0, 0]


@pytest.mark.parametrize(
    "text", ["m_vis > 85 and n_tag < 2", "-m_vis ** 2 % 7", "where(n_tag > 0, sqrt(m_vis), 1e-3)"]
)
def test_flat_columns_are_a_subset_of_the_language(text):
    columns = {"m_vis": np.asarray(EVENTS.m_vis), "n_tag": np.asarray(EVENTS.n_tag)}
    np.testing.assert_array_equal(value(text), evaluate(text, columns).astype(np.float32))


UNSAFE = [
    "__import__('os').system('true')",
    "Jet.__class__",
    "Jet.pt.__class__.__base__",
    "Jet._pt[0]",
    "Jet.pt[0].__reduce__()",
    "Jet.pt.tolist()",
    "Jet['pt']",
    "Jet.pt[0, 1]",
    "Jet.pt[...]",
    "Jet.pt[::2]",
    "Jet.pt[0.5]",
    "Jet.pt[True]",
    "Jet.pt[10 ** 9]",
    "Jet.pt[:10000000000]",
    "Jet.pt[1:n_tag]",
    "Jet.pt[(1).__class__]",
    "(lambda: 1)()",
    "lambda: Jet",
    "[Jet.pt, Jet.eta]",
    "[x for x in Jet]",
    "sum(x for x in Jet)",
    "{Jet: 1}",
    "{Jet}",
    "(Jet, Jet)",
    "'text'",
    "b'text'",
    "f'{Jet}'",
    "f'{m_vis!r:>{n_tag}}'",
    "(x := 3)",
    "sum((x := Jet.pt))",
    "m_vis if n_tag else 1",
    "m_vis @ n_tag",
    "m_vis // 2",
    "m_vis << 9999999",
    "m_vis is n_tag",
    "n_tag in (1, 2)",
    "None",
    "...",
    "1j * m_vis",
    "sum(*Jet.pt)",
    "sum(Jet.pt, start=1)",
    "sum(a=Jet.pt)",
    "eval('1')",
    "open(m_vis)",
    "getattr(Jet, m_vis)",
    "await Jet",
    "yield Jet",
    "import os",
    "del Jet",
    "Jet.pt = 3",
    "m_vis; n_tag",
    "Jet.pt\x00",
    "\\\n\\",
    "m_vis * 10 ** 400",
    "m_vis * 9 ** 9 ** 9 ** 9",
    "m_vis * 99999999999999999999999999999999",
    "m_vis * 1e999",
    "m_vis * (1 / 0)",
    "m_vis * (0 / 0)",
    "m_vis * log(-1)",
    "m_vis * (4611686018427387904 * 4)",
    "m_vis + (1.5 & 2)",
    "m_vis + ~1.5",
    "m_vis % (1 % 0)",
    "first_of(Tau.pt, 5)",
    "first_of(Tau.pt, 5)[0]",
    "count(particle(1, 0, 0, 0))",
    "mass(particle(1, 0, 0, 0), particle(2, 1, 1, 1))",
    "𝐉et.pt[0]",
    "Jet.ｐt[0]",
    "Jét.pt[0]",
    "m_vis + ２",
    "-" * (MAX_DEPTH + 1) + "m_vis",
    "(" * 300 + "m_vis" + ")" * 300,
    "Jet" + "[Jet.pt > 1]" * 60 + ".pt[0]",
    "m_vis" + " + m_vis" * 400,
    "Jet.pt.eta",
    "MET.pt.x",
    "m_vis.x.y",
    "(Jet.pt > 3).pt",
    "(Jet + Jet).pt",
    "count(Jet).pt",
    "sort(Jet)",
    "mass()",
    "particle(1, 2)",
    "particle(1, 0, 0, 0).charge",
    "combine(Jet[0], Jet[1]).btag",
    "combine(Jet[0], Jet[1])",
    "particle(m_vis, 0, 0, 0)",
    "delta_r(Jet[0])",
    "delta_r(1, 2)",
    "concatenate(Jet)",
    "1 + 1",
    "5",
    "True",
    "3[0]",
    "sum(3)",
    "Jet.pt[3 > 2]",
    "fill(3, m_vis)",
    "count(3)",
    "   ",
    "",
    "#",
    "m_vis # + 1",
    "m_vis\n# a\n+ 1",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_everything_else_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        FeatureSpec({"x": text})
    assert len(str(caught.value).splitlines()[0]) > 10
    if text.strip():
        assert "x" in caught.value.where


@pytest.mark.parametrize("text", [t for t in UNSAFE if t != "m_vis" and "Jet[1:]" not in t])
def test_and_in_definitions_and_padded_blocks(text):
    for document in (
        {"features": {"y": "count(d)"}, "definitions": {"d": text}},
        {"padded": {"jet": {"collection": text, "fields": ["pt"], "length": 2}}},
        {"padded": {"jet": {"collection": "Jet", "fields": {"y": text}, "length": 2}}},
    ):
        with suppress(NeymanError):  # a number is a legal definition
            FeatureSpec.from_dict(document)(EVENTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Jet.__class__", r"not allowed in an expression: 'Jet.__class__'[\s\S]*feature x"),
        ("ssum(Jet.pt)", r"unknown function 'ssum'[\s\S]*expected: sum"),
        ("mass()", r"mass takes 1 to 16 arguments, got 0"),
        ("delta_r(Jet[0])", r"delta_r takes 2 arguments, got 1"),
        ("Jet.pt[10 ** 9]", r"not an index: '10 \*\* 9'"),
        ("m_vis * 9 ** 9 ** 9 ** 9", r"a constant in an expression is inf"),
        ("m_vis * (1 / 0)", r"a constant in an expression is inf"),
        ("𝐉et.pt[0]", r"not allowed in an expression: '𝐉'[\s\S]*ASCII"),
        ("combine(Jet[0], Jet[1]).btag", r"a particle made in an expression has no 'btag'"),
        ("combine(Jet[0], Jet[1])", r"combine gives objects, not numbers"),
        ("Jet.pt.eta", r"not a collection of objects: 'Jet.pt'"),
        ("sum(3)", r"a number stands where a column"),
        ("1 + 1", r"uses no column of the events"),
        ("m_vis" + " + m_vis" * 400, r"characters"),
        ("-" * (MAX_DEPTH + 1) + "m_vis", r"nested too deeply"),
    ],
)
def test_messages(text, message):
    with pytest.raises(ConfigError, match=message):
        FeatureSpec({"x": text})


def test_definitions_do_not_go_in_circles():
    with pytest.raises(ConfigError, match=r"definition 'a' uses itself[\s\S]*'good_jets'"):
        value("count(a)", a="b[b.pt > 1]", b="a[0]")
    with pytest.raises(ConfigError, match=r"definition 'Jet' uses itself"):
        value("count(Jet)", Jet="Jet[Jet.pt > 30]")
    for wrong in ("Jet[", "Jet.__class__", "Jet['x']", "sort(Jet)"):
        with pytest.raises(ConfigError, match=r"definition 'a'"):
            value("count(Jet)", a=wrong)  # though nothing uses it


def test_nested_definitions_are_bounded_in_depth_and_in_size():
    deep = {f"d{i}": f"d{i - 1}[d{i - 1}.pt > {i}]" for i in range(1, MAX_TOTAL_DEPTH)}
    with pytest.raises(ConfigError, match="nested too deeply, with those that it uses"):
        value("count(d1)", d0="Jet", **deep)
    doubled = {f"d{i}": f"concatenate(d{i - 1}, d{i - 1})" for i in range(1, 10)}
    with pytest.raises(ConfigError, match=r"too large[\s\S]*16 collections concatenated"):
        value("count(d9)", d0="Jet", **doubled)
    assert value("count(d3)", d0="Jet", **doubled) == [16, 0, 8]
    # Many uses of one definition are computed once, and do not grow.
    shared = {f"s{i}": " + ".join([f"s{i - 1}"] * 4) for i in range(1, 15)}
    assert value("s14 / s13", s0="m_vis", **shared) == [4, 4, 4]


@given(st.text(max_size=40) | st.text(alphabet="Jetpma[]().,:0129 <>=&|~+-*/'\"_:=@{}\\\n", max_size=40))
def test_random_text_gives_values_or_our_error(text):
    with suppress(NeymanError):
        FeatureSpec({"x": text}, fill={"x": 0.0})(EVENTS)


ATOMS = st.sampled_from(["Jet", "Jet.pt", "MET", "MET.pt", "m_vis", "0", "2.5", "Jet[0]", "x"])


def _grow(inner):
    functions = st.sampled_from(
        [
            "sum",
            "max",
            "count",
            "any",
            "mass",
            "pt",
            "sort",
            "concatenate",
            "first_of",
            "combine",
            "fill",
            "mt",
            "abs",
        ]
    )
    return st.one_of(
        st.tuples(functions, st.lists(inner, min_size=1, max_size=3)).map(
            lambda t: f"{t[0]}({', '.join(t[1])})"
        ),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}[{t[1]}]"),
        st.tuples(inner, st.sampled_from(["+", ">", "and", "&", "**", "%"]), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(["pt", "eta", "phi"])).map(lambda t: f"({t[0]}).{t[1]}"),
    )


@given(st.recursive(ATOMS, _grow, max_leaves=8))
def test_random_expressions_give_finite_values_or_our_error(text):
    with suppress(NeymanError):
        spec = FeatureSpec({"y": text}, fill={"y": 0.0}, definitions={"x": "Jet[Jet.pt > 30]"})
        assert FeatureSpec.from_dict(spec.to_dict()) == spec
        assert np.isfinite(spec(EVENTS)["y"]).all()
        assert len(spec(EVENTS[:0])["y"]) == 0
