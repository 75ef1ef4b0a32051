"""The command line, ``art-oat``."""

from art_oat.cli.app import Command, FilledCommand, SeedsCommand, app
from art_oat.cli.compare import compare
from art_oat.cli.demo import demo
from art_oat.cli.evaluate import evaluate
from art_oat.cli.export import export
from art_oat.cli.info import info
from art_oat.cli.report import report
from art_oat.cli.robustbench import robustbench
from art_oat.cli.security import security
from art_oat.cli.sweep import sweep
from art_oat.cli.train import train

__all__ = ["app"]

app.command(cls=Command)(demo)
app.command(cls=FilledCommand)(train)
app.command(cls=FilledCommand)(evaluate)
app.command(cls=Command)(compare)
app.command(cls=SeedsCommand)(sweep)
app.command(cls=FilledCommand)(robustbench)
app.command(cls=Command)(info)
app.command(cls=Command)(export)
app.command(cls=Command)(report)
app.command(cls=Command)(security)
