"""Engram learns time series with LSTM networks and forecasts them."""

__version__ = "0.1.0"
