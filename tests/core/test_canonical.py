import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic.canonical import encode, problems
from hermetic.errors import Domain, HermeticError

LIMIT = 2**53 - 1
text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.booleans() | st.integers(-LIMIT, LIMIT) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


class TestOneFormPerValue:
    """ARCHITECTURE 4: the encoder takes dict, list, str, int, bool and gives each value one form."""

    @given(st.dictionaries(text, values, min_size=2), st.randoms(use_true_random=False))
    def test_order_of_names_does_not_matter(self, value: dict, random) -> None:
        names = list(value)
        random.shuffle(names)
        assert encode({name: value[name] for name in names}) == encode(value)

    @given(values, values)
    def test_different_values_differ(self, one, other) -> None:
        assert (encode(one) == encode(other)) == (_typed(one) == _typed(other))


def _typed(value):
    """Equality that keeps True and 1 apart."""
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value), value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": None}, "a"),
        ({"a": [1, 0.5]}, "a.1"),
        ({"a": {"b": 2**53}}, "a.b"),
        ({"a": "\ud800"}, "a"),
        ({1: "a"}, "1"),
        ({"a": (1,)}, "a"),
        (b"bytes", ""),
    ],
)
def test_what_has_no_canonical_form_is_named(value, where: str) -> None:
    assert [place for place, _ in problems(value)] == [where]
    with pytest.raises(HermeticError) as caught:
        encode(value)
    assert (caught.value.domain, caught.value.reason) == (Domain.BUG, "not-canonical")
