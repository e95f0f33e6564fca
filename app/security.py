"""Who calls. Keys, scopes and their check come with the issue on security; until then the one workspace is everybody's."""

from dataclasses import dataclass

DEFAULT_WORKSPACE_ID = 1
SCOPES = ("read", "write", "train", "predict", "admin")


@dataclass(frozen=True)
class Caller:
    """Whose things the request may see and what it may do with them."""

    workspace_id: int
    scopes: frozenset[str]


def identify() -> Caller:
    """The open service of a loopback address: every scope on the default workspace."""
    return Caller(DEFAULT_WORKSPACE_ID, frozenset(SCOPES))
