"""How a command says that it failed."""

from typing import Any


class Failure(Exception):
    """Ends the command with exit code 1 and one sentence on stderr that says what to do. `problem` is the service's, if it said no;
    `may_pass` says that the same request may succeed a little later."""

    def __init__(self, detail: str, problem: dict[str, Any] | None = None, *, may_pass: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problem = problem or {}
        self.may_pass = may_pass

    @property
    def slug(self) -> str:
        """The name of the service's problem (docs/problems.md), or nothing."""
        return str(self.problem.get("type", "")).rpartition("/")[2]
