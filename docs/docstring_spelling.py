"""Lets mkdocstrings show two things of the docstrings that it does not know: ``Example:`` and roles of Sphinx."""

import re
from typing import Any

import griffe


class Spelling(griffe.Extension):
    """Read ``Example:`` as ``Examples:``, and a role such as ``:func:`fold``` as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of what was just loaded."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r":(?:func|class|mod|meth|attr):(?=`)", "", text)
