from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina.state import exact_json
from states import assert_state_is, make_state

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def no_token(name):
    raise AssertionError(f"{name} is not strict JSON")


@given(VALUES)
def test_json_parts_come_back_exactly_and_are_strict(value):
    text = exact_json.dumps(value)
    json.loads(text, parse_constant=no_token)
    assert exact_json.loads(text) == value


def test_numbers_that_json_lacks_come_back():
    back = exact_json.loads(exact_json.dumps([math.nan, math.inf, -math.inf, -0.0]))
    assert math.isnan(back[0]) and back[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, back[3]) == -1


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": torch.ones(1)}, "value.a is a Tensor"),
        ({"a": [1, {2: 3}]}, "value.a[1] has the key 2"),
        ({"$float": "nan"}, "reserved"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(value, named):
    with pytest.raises(TypeError, match="value") as caught:
        exact_json.dumps(value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["NaN", '{"a": Infinity}', '{"a": 1, "a": 2}', "{", '{"$bytes": "AP8*="}'],
)
def test_loose_json_is_refused(text):
    with pytest.raises(ValueError):
        exact_json.loads(text)


def test_the_size_of_a_state_is_that_of_its_tensors():
    state = make_state(1, rows=16)
    # 16 x 8 float32, 8 bfloat16, none, one int64; both moments in float32.
    assert state.nbytes() == (512 + 16 + 8) + 2 * (512 + 32)


def test_nothing_done_to_a_state_reaches_its_snapshot():
    state = make_state(3)
    state.tensors["transposed"] = torch.arange(6.0).reshape(2, 3).T
    copy = state.snapshot()
    for tensor in (*state.tensors.values(), *state.optimizer["exp_avg"].values()):
        tensor.zero_()
    state.journal[0]["value"] = 9
    wanted = make_state(3)
    wanted.tensors["transposed"] = torch.arange(6.0).reshape(2, 3).T
    assert_state_is(copy, wanted)
