"""`python -m app.cli`: the same as `engram`, by the interpreter that runs this."""

from app.cli import main

main()
