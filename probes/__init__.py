"""Reading: what a language model represents, as activations, directions and probes."""

from probes.activations import Activations
from probes.capture import capture
from probes.checkpoints import across_checkpoints, align, check_comparable
from probes.comparison import compare
from probes.contrasts import ContrastSet
from probes.directions import Direction, random_direction
from probes.erasure import fit_eraser
from probes.errors import ArtefactError, DataError, LayerError, ModelError, StorypriorError
from probes.evaluation import Estimate, Evaluation, evaluate
from probes.fitting import Probe, fit
from probes.loading import load
from probes.models import LanguageModel, wrap
from probes.transfer import transfer

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
    "across_checkpoints",
    "align",
    "capture",
    "check_comparable",
    "compare",
    "evaluate",
    "fit",
    "fit_eraser",
    "load",
    "random_direction",
    "transfer",
    "wrap",
]
