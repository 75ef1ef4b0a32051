from dataclasses import dataclass

from art_oat.fields import described
from art_oat.training import Method


@dataclass
class Part:
    size: int = described("How large.", default=3, min=1)
    name: str | None = described("How it is called.")


def test_a_described_field_has_its_default_and_carries_what_the_command_line_shows():
    fields = Part.__dataclass_fields__
    assert (Part().size, Part().name) == (3, None)
    assert [dict(field.metadata) for field in fields.values()] == [
        {"help": "How large.", "min": 1},
        {"help": "How it is called."},
    ]


def test_every_field_of_a_method_is_an_option_of_the_command_line():
    assert all("help" in field.metadata for field in Method.__dataclass_fields__.values())
