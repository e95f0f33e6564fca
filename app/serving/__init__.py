"""What comes next: forecasts of the version that serves."""
