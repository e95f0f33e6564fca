"""The embedded broker: a kombu transport on a SQLite file of its own."""


def register() -> None:
    """Makes `engram+sqlite:` a broker URL that kombu knows."""
