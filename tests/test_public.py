"""The public interface: names, lazy imports, errors that travel."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import pytest

import neyman
from neyman import errors


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_public_names_are_frozen():
    assert neyman.__all__ == dir(neyman)
    assert set(neyman.__all__) == {
        "__version__",
        *(
            "EventTable",
            "FeatureSpec",
            "Likelihood",
            "NeymanError",
            "Scorer",
            "accelerate_pyhf",
            "blind",
            "breakdown",
            "contour",
        ),
        *("coverage", "feldman_cousins", "fit", "fit_toys", "goodness_of_fit", "hypothesis_test", "impacts"),
        *("profile", "significance", "toys", "upper_limit"),
        *(
            "analysis",
            "cluster",
            "diagnostics",
            "events",
            "inference",
            "likelihood",
            "networks",
            "plots",
            "ratios",
        ),
        *("sannt", "training", "unfolding", "workspace"),
    }


@pytest.mark.parametrize("name", [n for n in neyman.__all__ if n != "__version__"])
def test_every_public_name_resolves(name):
    assert getattr(neyman, name).__doc__


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = neyman.nothing


def test_importing_neyman_imports_nothing_heavy():
    heavy = ["torch", "coffea", "matplotlib", "awkward", "uproot", "pyhf", "iminuit", "numpy", "hist"]
    code = f"import neyman, sys; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from neyman.cli import main\n"
        "r = CliRunner().invoke(main, ['--help']); assert r.exit_code == 0 and 'impacts' in r.output\n"
        "print([m for m in ('torch', 'numpy', 'rich', 'coffea') if m in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


def test_likelihood_needs_no_training_code():
    code = (
        "import neyman.likelihood, neyman.inference, sys\n"
        "bad = ['neyman.' + n for n in ('training', 'ratios', 'sannt', 'unfolding', 'events')]\n"
        "print([b for b in bad if b in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


def test_error_text_and_pickling():
    error = errors.InputError("no branch 'x'", where="f.root", expected="a branch", fix="use y")
    assert str(error) == "no branch 'x'\n  where: f.root\n  expected: a branch\n  fix: use y"
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is errors.InputError
    assert (str(back), back.fix) == (str(error), "use y")


def test_no_error_is_an_oserror():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.NeymanError)]
    assert len(kinds) >= 8
    assert not any(issubclass(k, OSError) for k in kinds)


def test_missing_extra_names_the_command():
    with pytest.raises(
        errors.MissingExtraError, match=r"(?s)no_such_module is not installed.*neyman\[plot\]"
    ):
        errors.optional("no_such_module", "plot")


def test_nearest_ignores_case():
    assert errors.nearest("TAU_PT", ["Tau_pt", "Jet_pt"], n=1) == "Tau_pt"
    assert errors.nearest("zzz", []) == "(none)"


def test_import_is_fast_enough_to_be_unnoticed():
    # Generous: this guards against an eager torch or coffea import (seconds), not against a loaded machine.
    start = time.perf_counter()
    run("import neyman")
    assert time.perf_counter() - start < 5.0


def test_no_error_shows_skipbadfiles_an_oserror():
    """coffea drops a chunk if an OSError is anywhere in the chain of causes."""
    from coffea.util import _exception_chain

    def failed(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise ValueError from error
        except ValueError as error:
            try:
                raise errors.InputError("not read") from error
            except errors.InputError as found:
                return _exception_chain(found)

    assert [type(e) for e in failed(FileNotFoundError())] == [errors.InputError]
    assert [type(e) for e in failed(KeyError())] == [errors.InputError, ValueError, KeyError]
