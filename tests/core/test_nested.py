"""Nested settings as one level: what is a value, and in which order."""

from nas_proxy.core.nested import flatten


def test_keys_are_joined_in_order_and_what_is_empty_is_a_value() -> None:
    nested = {"b": {"z": 1, "a": {"deep": None}}, "list": [{"x": 1}], "none": {}, "a": "text"}
    assert list(flatten(nested)) == [
        ("b.z", 1), ("b.a.deep", None), ("list", [{"x": 1}]), ("none", {}), ("a", "text"),
    ]  # fmt: skip
    assert list(flatten({})) == []
