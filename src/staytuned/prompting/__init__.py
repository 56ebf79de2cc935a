"""Labels for texts with no labelled row, or few: by descriptions, by prompts, by contrast.

Each method is one function, which makes a ``Predict`` of what the method may look at.
"""

from collections.abc import Callable

import numpy

Predict = Callable[[list[str]], list[numpy.ndarray]]  # texts to the probabilities of the labels, float64
