"""What a forkserver imports before it forks children: torch and all that a training needs of the workshop."""

from app.loading import load_quietly

with load_quietly():
    import app.lstm.learning
    import app.training.child  # noqa: F401
