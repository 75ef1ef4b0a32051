"""Parts that related papers add to adversarial training, each equal to its formula, for ``neighborhood.py``."""
