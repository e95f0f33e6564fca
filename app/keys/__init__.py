"""Who may come in: workspaces, and keys to them."""
