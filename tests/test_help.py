import pydoc
import re

import art_oat


def test_the_help_of_the_package_is_short_and_says_a_line_of_every_public_name():
    public = {name: getattr(art_oat, name) for name in art_oat._HOMES}  # loaded, as after some use
    shown = pydoc.plain(pydoc.render_doc(art_oat))
    assert len(shown.splitlines()) < 150
    assert set(re.findall(r"^ {8}(\w+)  +\S", shown, flags=re.MULTILINE)) == public.keys()
    assert shown.count("fold(model, curve.select(") == 1


def test_import_star_brings_every_public_name_as_listed_for_type_checkers():
    names: dict[str, object] = {}
    exec("from art_oat import *", names)
    assert {name for name in names if name != "__builtins__"} == art_oat._HOMES.keys()
