"""`python -m serving`."""

from serving.cli import app

app()
