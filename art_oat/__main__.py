"""``python -m art_oat``, which is ``art-oat``; for ``torchrun -m art_oat train``, too."""

from art_oat.cli import app

if __name__ == "__main__":
    app(prog_name="art-oat")
