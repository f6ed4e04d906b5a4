"""Settings as text: literals and bare words, and nothing that runs."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leadline.cli.config import parse_config
from leadline.program.errors import UserError
from refusals import assert_one_sentence, refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("n_layer=24,n_embd=384,n_head=6", {"n_layer": 24, "n_embd": 384, "n_head": 6}),
        ("hidden_sizes=(32,64), depths=[1,(2,3)]", {"hidden_sizes": (32, 64), "depths": [1, (2, 3)]}),
        ("act=relu,eps=1e-5,low=-1", {"act": "relu", "eps": 1e-5, "low": -1}),
        ("act='gelu,new=1',use=True,pad=None", {"act": "gelu,new=1", "use": True, "pad": None}),
        ("text={'a': 1, 'b': (2,)},", {"text": {"a": 1, "b": (2,)}}),
    ],
)
def test_settings(text: str, expected: dict[str, object]) -> None:
    found = parse_config(text)
    assert found == expected
    assert list(found) == list(expected)


def test_refused_settings() -> None:
    for text in (
        "24",
        "n_layer",
        "n_layer=",
        "=3",
        "a=1 b=2",
        "a=1)(b=2",
        "**{'a': 1}",
        "a=1,*[2]",
        "a=\x00",
    ):
        with refused("cannot be read, expected a list of settings"):
            parse_config(text)
    with refused("the config gives 'a' twice", "leave one out"):
        parse_config("a=1,a=2")
    with refused("config value act=true is not a Python literal, expected True"):
        parse_config("act=true")
    with refused("config value a=__import__('os').system('echo') is not a Python literal"):
        parse_config("a=__import__('os').system('echo')")
    with refused("config value a=[x for x in (1,)] is not a Python literal"):
        parse_config("a=[x for x in (1,)]")
    with refused("config value a=gelu - new is not a Python literal", "a quoted string"):
        parse_config("a=gelu-new")
    with refused("config is 10001 characters long"):
        parse_config("a=" + "1" * 9999)
    with refused("cannot be read"):
        parse_config("a=" + "(" * 4000)


@given(st.text(max_size=60) | st.lists(st.sampled_from(list("a=1,()[]{}'\"#\\ \n\t-*:.e")), max_size=30).map("".join))
@example("a=" + "-" * 9000 + "1")
@example("a=" + "[" * 150 + "]" * 150)
@example("a='\ud800'")
def test_any_text_gives_settings_or_one_sentence(text: str) -> None:
    try:
        found = parse_config(text)
    except UserError as error:
        assert_one_sentence(str(error))
    else:
        assert all(isinstance(name, str) for name in found)
