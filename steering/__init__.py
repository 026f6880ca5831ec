"""Writing: what a language model does when its residual stream is moved."""

from steering.apply import steer
from steering.interventions import Ablate, Add, Intervention

__all__ = ["Ablate", "Add", "Intervention", "steer"]
