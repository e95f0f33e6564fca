"""How it is learned: requests, their life as rows, and the supervised child that trains."""
