"""Members are found in an object's text, and taken out of it without touching another byte."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.rows import located, without
from tests.unit.account.bodies import ALIAS, Object, objects

PRIVATE = frozenset({ALIAS})


@given(objects())
def test_every_member_is_found_where_it_is(sent: Object) -> None:
    found = located(sent.text, msgspec.json.decode(sent.text, type=dict[str, msgspec.Raw]))
    assert [(name, sent.text[place.start : place.end]) for name, place in found.items()] == list(sent.members)
    for name, place in found.items():
        assert json.loads(sent.text[place.value : place.end]) == json.loads(sent.text)[name]


@given(objects(), st.data())
def test_an_object_without_some_members_is_the_original_minus_those(sent: Object, data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from([*(name for name, _ in sent.members), "absent", ALIAS])))
    left = without(sent.text, frozenset(names))
    expected = {name: value for name, value in json.loads(sent.text).items() if name not in names}
    assert list(json.loads(left).items()) == list(expected.items())
    for name, member in sent.members:
        assert name in names or member in left
    if expected.keys() == json.loads(sent.text).keys():
        assert left in (sent.text, b"{}")


@given(objects().filter(lambda sent: len(sent.members) > 1), st.data())
def test_to_take_one_member_out_takes_its_text_one_comma_and_space_alone(sent: Object, data: st.DataObject) -> None:
    name, member = data.draw(st.sampled_from(sent.members))
    left = without(sent.text, frozenset({name}))
    gone = len(sent.text) - len(left)
    cuts = [sent.text[at : at + gone] for at in range(len(left) + 1) if sent.text[:at] + sent.text[at + gone :] == left]
    assert any(cut.strip().removeprefix(b",").removesuffix(b",").strip() == member for cut in cuts)


@pytest.mark.parametrize(
    ("row", "left"),
    [
        (b'{"accountAlias":"x","asset":"A"}', b'{"asset":"A"}'),
        (b'{"asset":"A","accountAlias":"x"}', b'{"asset":"A"}'),
        (b'{"asset":"A","accountAlias":"x","b":1}', b'{"asset":"A","b":1}'),
        (b'{ "accountAlias" : "x" , "asset" : "A" }', b'{ "asset" : "A" }'),
        (b'{"asset" : "A" ,\n "accountAlias" : "x"\t}', b'{"asset" : "A"\t}'),
        (b'{"asset":"A","accountAlias":"x","b":1.0e-7 }', b'{"asset":"A","b":1.0e-7 }'),
        (b'{"accountAlias":"x"}', b"{}"),
        (b"{}", b"{}"),
        (b'{"\\u0061ccountAlias":"x","asset":"A"}', b'{"asset":"A"}'),
        (b'{"asset":"A","account\\u0041lias":{"accountAlias":["x",{}]}}', b'{"asset":"A"}'),
        (b'{"asset":"\\",\\"accountAlias\\":\\"x"}', b'{"asset":"\\",\\"accountAlias\\":\\"x"}'),
        (b'{"asset":"A","x":{"accountAlias":"y"}}', b'{"asset":"A","x":{"accountAlias":"y"}}'),
        (b'{"AccountAlias":"x","accountalias":"y"}', b'{"AccountAlias":"x","accountalias":"y"}'),
    ],
)
def test_an_alias_is_cut_out_wherever_it_stands_and_however_it_is_spelt(row: bytes, left: bytes) -> None:
    assert without(row, PRIVATE) == left


def test_several_members_are_cut_out_at_once() -> None:
    row = b'{"a":1, "b":2 ,"c":3,\n"d":4, "e":5}'
    assert without(row, frozenset("ab")) == b'{"c":3,\n"d":4, "e":5}'
    assert without(row, frozenset("bd")) == b'{"a":1 ,"c":3, "e":5}'
    assert without(row, frozenset("de")) == b'{"a":1, "b":2 ,"c":3}'
    assert without(row, frozenset("abcde")) == b"{}"
