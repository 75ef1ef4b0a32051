"""A training and its measurement, from plain values to a folder of results."""
