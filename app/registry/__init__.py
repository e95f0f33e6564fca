"""What was learned: models, their immutable versions with artifacts, and the aliases that move."""
