"""The array kernels agree with plain Python on lists, for any lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.events.features import columns
from neyman.events.features.columns import Column, LengthError

NUMBERS = st.integers(-5, 5).map(float)
LISTS = st.lists(st.lists(st.none() | NUMBERS, max_size=4), max_size=6)
FULL = st.lists(st.lists(NUMBERS, max_size=4), max_size=6)


def column(lists):
    flat = [x for one in lists for x in one]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    valid = np.array([x is not None for x in flat], dtype=bool)
    values = np.array([0.0 if x is None else x for x in flat], dtype=np.float32)
    return Column(values, None if valid.all() else valid, offsets)


def event_column(numbers):
    one = column([numbers])
    return Column(one.values, one.valid)


def plain(result):
    values = result.values.tolist()
    if result.valid is not None:
        values = [x if known else None for x, known in zip(values, result.valid, strict=True)]
    if result.offsets is None:
        return values
    return [values[a:b] for a, b in zip(result.offsets, result.offsets[1:], strict=False)]


@given(LISTS, st.integers(-5, 5))
def test_take(lists, index):
    assert plain(columns.take(column(lists), index)) == [
        one[index] if -len(one) <= index < len(one) else None for one in lists
    ]


@given(LISTS, st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5))
def test_cut(lists, start, stop):
    assert plain(columns.cut(column(lists), start, stop)) == [one[start:stop] for one in lists]


@given(LISTS, st.data())
def test_select(lists, data):
    masks = [[data.draw(st.sampled_from([True, False, None])) for _ in one] for one in lists]
    condition = column([[None if m is None else float(m) for m in one] for one in masks])
    condition = Column(condition.values.astype(bool), condition.valid, condition.offsets)
    assert plain(columns.select(column(lists), condition)) == [
        [x for x, m in zip(one, mask, strict=True) if m] for one, mask in zip(lists, masks, strict=True)
    ]


@given(LISTS)
def test_order(lists):
    full = column(lists)
    position = column([list(map(float, range(len(one)))) for one in lists])
    expected = [
        sorted(range(len(one)), key=lambda i, one=one: (one[i] is None, -(one[i] or 0.0))) for one in lists
    ]
    assert plain(columns.arrange(position, columns.order(full))) == expected


@given(LISTS, LISTS, LISTS)
def test_join(first, second, third):
    n = min(len(first), len(second), len(third))
    parts = (first[:n], second[:n], third[:n])
    assert plain(columns.join([column(part) for part in parts])) == [
        a + b + c for a, b, c in zip(*parts, strict=True)
    ]


@given(LISTS)
def test_reductions(lists):
    known = [[x for x in one if x is not None] for one in lists]
    for kind, function in {
        "sum": sum,
        "count": len,
        "any": any,
        "all": all,
        "max": lambda one: max(one, default=None),
        "min": lambda one: min(one, default=None),
    }.items():
        assert plain(columns.reduce(kind, column(lists))) == list(map(function, known)), kind


@given(LISTS, st.data())
def test_numbers_go_to_every_element_and_missing_stays_missing(lists, data):
    numbers = [data.draw(st.none() | NUMBERS) for _ in lists]
    result = columns.apply(np.add, [column(lists), event_column(numbers)])
    assert plain(result) == [
        [None if x is None or number is None else x + number for x in one]
        for one, number in zip(lists, numbers, strict=True)
    ]


@given(st.lists(st.tuples(*[st.none() | NUMBERS] * 3), max_size=6))
def test_where_is_missing_where_the_choice_is(rows):
    a, b, c = ([row[i] for row in rows] for i in range(3))
    condition = columns.apply(np.greater, [event_column(a), 0.0])
    result = columns.apply(np.where, [condition, event_column(b), event_column(c)])
    assert plain(result) == [None if x is None else y if x > 0 else z for x, y, z in rows]
    assert plain(columns.apply(np.where, [condition, event_column(b), 7.0])) == [
        None if x is None else y if x > 0 else 7.0 for x, y, _ in rows
    ]


@given(st.lists(st.tuples(*[st.none() | NUMBERS] * 2), max_size=6))
def test_fill(rows):
    a, b = ([row[i] for row in rows] for i in range(2))
    assert plain(columns.fill(event_column(a), event_column(b))) == [y if x is None else x for x, y in rows]
    assert plain(columns.fill(event_column(a), 7.0)) == [7.0 if x is None else x for x, _ in rows]


@given(st.lists(st.none() | NUMBERS, max_size=6))
def test_a_number_is_a_list_of_one_and_a_missing_one_an_empty_list(numbers):
    single = event_column(numbers)
    assert plain(columns.take(single, 0)) == plain(columns.take(single, -1)) == numbers
    assert plain(columns.take(single, 1)) == [None] * len(numbers)
    assert plain(columns.reduce("count", single)) == [int(x is not None) for x in numbers]
    condition = columns.apply(np.greater, [single, 0.0])
    assert plain(columns.select(single, condition)) == [[x] if (x or 0) > 0 else [] for x in numbers]


@given(FULL, FULL)
def test_lists_of_different_lengths_are_refused(first, second):
    n = min(len(first), len(second))
    first, second = first[:n], second[:n]
    differ = [i for i in range(n) if len(first[i]) != len(second[i])]
    if not differ:
        columns.apply(np.add, [column(first), column(second)])
        return
    with pytest.raises(LengthError, match=f"different lengths, first in event {differ[0]}"):
        columns.apply(np.add, [column(first), column(second)])


def test_sums_are_in_float64_and_whole_numbers_in_int64():
    many = Column(np.full(1 << 20, 0.1, dtype=np.float32), None, np.array([0, 1 << 20]))
    assert columns.reduce("sum", many).values[0] == pytest.approx(
        float(np.float32(0.1)) * (1 << 20), rel=1e-12
    )
    flags = Column(np.ones(300, dtype=bool), None, np.array([0, 300]))
    assert plain(columns.reduce("sum", flags)) == [300]


def test_a_condition_is_true_or_false():
    with pytest.raises(TypeError, match="the condition in brackets is float32, not true or false"):
        columns.select(column([[1.0]]), column([[1.0]]))
