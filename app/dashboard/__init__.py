"""What people see at `/`: pages that are the same for everybody, and modules that ask the public API for what is shown on them."""
