"""Reading: what a language model represents, as activations, directions and probes."""

from probes.activations import Activations
from probes.capture import capture
from probes.contrasts import ContrastSet
from probes.directions import Direction, random_direction
from probes.errors import ArtefactError, DataError, LayerError, ModelError, StorypriorError
from probes.evaluation import Estimate, Evaluation, evaluate
from probes.fitting import Probe, fit
from probes.loading import load
from probes.models import LanguageModel, wrap

__all__ = [
    "Activations",
    "ArtefactError",
    "ContrastSet",
    "DataError",
    "Direction",
    "Estimate",
    "Evaluation",
    "LanguageModel",
    "LayerError",
    "ModelError",
    "Probe",
    "StorypriorError",
    "capture",
    "evaluate",
    "fit",
    "load",
    "random_direction",
    "wrap",
]
