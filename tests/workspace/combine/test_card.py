"""What a datacard may say, and errors that name the line."""

from __future__ import annotations

import pytest

from neyman.errors import WorkspaceError
from neyman.workspace.combine.card import REFUSED, parse

CARD = """\
Combination of two cards
# a counting experiment
imax 2  number of channels
jmax *
kmax 3
------------
shapes * * FAKE
bin          SR  CR
observation  12  90   # counted
------------
bin      SR     SR    CR
process  sig    bkg   bkg
process  0      1     1
rate     4.5    8.0   88
------------
lumi   lnN  1.025  -      1.025   from the luminosity group
xsec   lnN  -      0.9/1.2  0.9/1.2
1stat  lnN  -      1.1    ----
none   lnN  -      1.0    0
k_bkg  rateParam  *  bkg  1 [0,5]
theory group = xsec lumi
theory group += 1stat
* autoMCStats 10 0 1
"""


def test_everything_is_read():
    card = parse(CARD, "card.txt")
    assert card.observed == {"SR": 12.0, "CR": 90.0}
    assert [(c.channel, c.process, c.signal, c.rate) for c in card.columns] == [
        ("SR", "sig", True, 4.5),
        ("SR", "bkg", False, 8.0),
        ("CR", "bkg", False, 88.0),
    ]
    assert [(s.name, s.kind, s.effects, s.line) for s in card.systematics] == [
        ("lumi", "lnN", ("1.025", None, "1.025"), 16),
        ("xsec", "lnN", (None, "0.9/1.2", "0.9/1.2"), 17),
        ("theta1stat", "lnN", (None, "1.1", None), 18),
    ]
    (rate,) = card.rate_parameters
    assert (rate.name, rate.channel, rate.process, rate.start, rate.bounds) == (
        "k_bkg",
        "*",
        "bkg",
        1.0,
        (0.0, 5.0),
    )
    (line,) = card.statistics
    assert (line.channel, line.threshold, line.signal, line.mode) == ("*", 10.0, False, 1)
    (line,) = parse(CARD.replace("10 0 1", "5 1"), "card.txt").statistics
    assert (line.threshold, line.signal, line.mode) == (5.0, True, 1)
    assert card.groups == {"theory": ("xsec", "lumi", "1stat")}


def test_process_numbers_may_come_first_and_observations_without_bins():
    swapped = CARD.replace(
        "process  sig    bkg   bkg\nprocess  0      1     1", "process 0 1 1\nprocess sig bkg bkg"
    )
    assert parse(swapped, "card.txt") == parse(CARD, "card.txt")
    silent = CARD.replace("bin          SR  CR\n", "\n")
    assert parse(silent, "card.txt") == parse(CARD, "card.txt")
    nothing = CARD.replace("bin          SR  CR\nobservation  12  90   # counted\n", "")
    assert parse(nothing, "card.txt").observed == {"SR": None, "CR": None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("imax 2 ", "imax 3 ", r"(?s)imax is 3, but there are 2 channels.*line 14.*imax \* counts"),
        ("imax 2 ", "imax two ", r"(?s)imax 'two' is not a number.*card\.txt, line 3"),
        ("imax 2  number of channels", "imax", r"(?s)imax has no number.*imax 2, or imax \*"),
        ("jmax *", "jmax 1.5", "jmax '1.5' is not a whole number"),
        ("jmax *", "jmax 4", r"jmax is 4, but there are 1 processes minus one"),
        ("kmax 3", "kmax 7", r"(?s)kmax is 7, but there are 3 systematics.*kmax \*"),
        (
            "observation  12  90",
            "obervation 12 90",
            r"(?s)'obervation' is not understood.*line 9.*nearest: observation",
        ),
        ("observation  12  90", "observation 12", r"(?s)1 observations are given.*2, one a bin"),
        ("observation  12", "observation x", r"observation 'x' is not a number"),
        (
            "bin          SR  CR",
            "bin  SR  CS",
            r"(?s)the observations are of SR, CS.*SR, CR, as in the columns",
        ),
        (
            "process  sig    bkg   bkg",
            "process sig bkg",
            r"(?s)line has 2 processes.*line 12.*3, as the line 'bin'",
        ),
        ("process  0      1     1\n", "", r"(?s)1 lines 'process' come before the rates.*line 13"),
        ("0      1     1", "0 1 -1", r"process 'bkg' is signal in one channel and background in another"),
        ("0      1     1", "0 1 b", r"process number 'b' is not a number"),
        ("bin      SR     SR    CR\n", "bin SR SR SR\n", r"process 'bkg' has two columns in 'SR'"),
        ("rate     4.5", "rate -2", r"(?s)the rate of 'sig' in 'SR' is -2.*0 or more, or -1"),
        ("8.0   88", "8.0", r"(?s)2 rates are given.*3, one a column"),
        ("0      1     1", "2 1 1", r"card\.txt has no signal"),
        (
            "shapes * * FAKE",
            "shapes *",
            r"(?s)the line has 1 words after 'shapes'.*shapes PROCESS CHANNEL FILE",
        ),
        (
            "shapes * * FAKE",
            "shapes * * f.root w:$PROCESS",
            r"(?s)'w:\$PROCESS' is an object of a RooFit workspace",
        ),
        (
            "shapes * * FAKE",
            "shapes * * FAKE\nshapes * * FAKE",
            r"(?s)shapes of '\*' in '\*' are given on line 7",
        ),
        (
            "lumi   lnN  1.025  -      1.025",
            "lumi lnN 1.025 -",
            r"(?s)effect of 'lumi' 'from' is not|'lumi' has 2 eff",
        ),
        (
            "1stat  lnN  -      1.1    ----",
            "1stat lnN - 1.1",
            r"(?s)'theta1stat' has 2 effects.*line 18.*3, one a",
        ),
        ("1.1    ----", "1,1 -", r"effect of 'theta1stat' '1,1' is not a number"),
        ("1.1    ----", "1/2/3 -", r"(?s)effect '1/2/3' of 'theta1stat' has 3 numbers.*one, for lnN"),
        ("1.1    ----", "-1.1 -", r"effect '-1.1' of 'theta1stat' is not positive"),
        ("none   lnN", "lumi lnN", r"(?s)'lumi' has a line already, line 16.*shape\?"),
        ("none   lnN", "none", r"(?s)'-' of 'none' is not understood.*expected: lnN"),
        ("none   lnN", "none lmN", r"(?s)'lmN' of 'none' is not understood.*nearest: lnN"),
        ("none   lnN", "none[nofloat] lnN", r"'none\[nofloat\]' does not float"),
        ("none   lnN  -      1.0    0", "none", r"(?s)'none' stands alone.*NAME KIND EFFECTS"),
        ("bkg  1 [0,5]", "bkg (@0*@1) a,b", r"(?s)'k_bkg' is not a number with a range.*formulae"),
        ("bkg  1 [0,5]", "bkg f.root:w", r"rateParam 'k_bkg' is taken from a RooFit workspace"),
        ("bkg  1 [0,5]", "bkg 1 [0]", r"the range '\[0\]' of 'k_bkg' has 1 ends"),
        ("bkg  1 [0,5]", "bkg 1 [5,0]", r"the range '\[5,0\]' of 'k_bkg' is empty"),
        ("* autoMCStats 10 0 1", "* autoMCStats", r"(?s)autoMCStats of '\*' has 0 numbers.*THRESHOLD"),
        ("theory group = xsec", "theory group += xsec", r"group 'theory' is not defined yet"),
        ("theory group += 1stat", "theory group = 1stat", r"group 'theory' is defined twice"),
        ("theory group += 1stat", "theory group", r"group 'theory' has no members"),
        ("none   lnN", "none gmN", r"number of events '-' is not a number"),
        (
            "none   lnN  -      1.0    0",
            "SB autoMCStats 5",
            r"(?s)for 'SB', which is no channel.*line 19.*nearest: SR",
        ),
        (
            "k_bkg  rate",
            "xsec  rate",
            r"(?s)'xsec' is a parameter of another kind already, line 17.*line 20.*two names",
        ),
        (
            "theory group = xsec lumi",
            "k_bkg lnN - 1.1 -",
            r"(?s)'k_bkg' is .*another kind already, line 20.*line 21",
        ),
        ("bkg  1 [0,5]", "bkg 7 [0,5]", r"(?s)the start 7 of 'k_bkg' is outside its range \[0,5\].*line 20"),
    ],
)
def test_broken_cards(old, new, message):
    assert old in CARD
    with pytest.raises(WorkspaceError, match=message):
        parse(CARD.replace(old, new), "card.txt")


def test_comments_and_separators():
    """As in Combine: after the rates, a # starts a comment anywhere, and before them, lines of signs say nothing."""
    assert parse(CARD.replace("1.0    0\n", "1.0    0# none\n"), "card.txt") == parse(CARD, "card.txt")
    assert (
        parse(CARD.replace("------------", "============"), "card.txt").columns
        == parse(CARD, "card.txt").columns
    )
    named = parse(CARD.replace("shapes * * FAKE", "shapes * * f.root p#$PROCESS # all"), "card.txt")
    assert named.shapes[0].nominal == "p#$PROCESS"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_by_name(kind):
    with pytest.raises(
        WorkspaceError, match=rf"(?s)'{kind}' of 'none', .*, is outside the common subset.*line 19"
    ):
        parse(CARD.replace("none   lnN", f"none {kind}"), "card.txt")


def test_no_card():
    with pytest.raises(WorkspaceError, match=r"notes\.txt has no line 'rate'"):
        parse("hello\nworld", "notes.txt")
