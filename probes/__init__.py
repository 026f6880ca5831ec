"""Reading: what a language model represents, as activations, directions and probes."""

from probes.activations import Activations
from probes.attribution import attribute
from probes.capture import capture
from probes.checkpoints import Checkpoints, across_checkpoints, align, check_comparable
from probes.comparison import Comparison, compare
from probes.contrasts import ContrastSet
from probes.contributions import Attribution, Contributions
from probes.directions import Direction, random_direction
from probes.erasure import Eraser, fit_eraser
from probes.errors import ArtefactError, DataError, LayerError, ModelError, StorypriorError
from probes.evaluation import evaluate
from probes.evidence import Curve, Estimate, Evaluation
from probes.fitting import Probe, fit
from probes.formats import read_direction
from probes.loading import load
from probes.logit_lens import LogitLens, logit_lens
from probes.models import LanguageModel, wrap
from probes.pooling import After
from probes.shards import StoredActivations
from probes.storage import capture_to_disk
from probes.tracing import TokenTrace, trace_tokens
from probes.transfer import Transfer, transfer

__all__ = [
    "Activations",
    "After",
    "ArtefactError",
    "Attribution",
    "Checkpoints",
    "Comparison",
    "ContrastSet",
    "Contributions",
    "Curve",
    "DataError",
    "Direction",
    "Eraser",
    "Estimate",
    "Evaluation",
    "LanguageModel",
    "LayerError",
    "LogitLens",
    "ModelError",
    "Probe",
    "StoredActivations",
    "StorypriorError",
    "TokenTrace",
    "Transfer",
    "across_checkpoints",
    "align",
    "attribute",
    "capture",
    "capture_to_disk",
    "check_comparable",
    "compare",
    "evaluate",
    "fit",
    "fit_eraser",
    "load",
    "logit_lens",
    "random_direction",
    "read_direction",
    "trace_tokens",
    "transfer",
    "wrap",
]
