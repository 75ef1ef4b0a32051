"""Networks as files that others run: one operating point of a conditional network, or its whole dial."""
