"""Ways of capturing behind one protocol: plain hooks, TransformerLens, nnsight.

A backend is chosen by name, `capture(…, backend="transformer_lens")`, or by an object where it has
options, `capture(…, backend=NNsight(remote="local"))`. All give the same activations within rounding.
TransformerLens and nnsight are optional (`pip install storyprior[backends]`) and imported when used.
"""

from probes.backends.hooks import Hooks
from probes.backends.nnsight import NNsight, skeleton
from probes.backends.protocol import CAPABILITIES, Backend, Read, Visit, needs
from probes.backends.transformer_lens import TransformerLens
from probes.errors import DataError, ModelError
from probes.models import LanguageModel

__all__ = [
    "Backend",
    "Hooks",
    "NNsight",
    "Read",
    "TransformerLens",
    "Visit",
    "reader",
    "resolve",
    "skeleton",
]

BACKENDS: dict[str, Backend] = {
    '"hooks"': Hooks(),
    '"transformer_lens"': TransformerLens(),
    '"nnsight"': NNsight(),
    "probes.backends.NNsight(remote=True)": NNsight(remote=True),
}
"""The backends that come with this package, under the words that choose them."""


def resolve(backend: str | Backend) -> Backend:
    """The backend of this name, or the object itself.

    Raises:
        DataError: there is no such backend, or the object lacks what a backend has.
    """
    found = BACKENDS.get(f'"{backend}"') if isinstance(backend, str) else backend
    if not isinstance(found, Backend) or isinstance(found, type):
        raise DataError(
            f"backend {backend!r} is not one of {', '.join(BACKENDS)}, nor an object with a name, "
            "capabilities and a reader"
        )
    return found


def reader(backend: str | Backend, model: LanguageModel) -> Read:
    """The function that runs batches of this model through this backend.

    Raises:
        DataError: there is no such backend.
        ModelError: the model, as it is now, asks for something that the backend cannot do (what is
            missing and who can do it are named), or the backend's library is missing or refuses it.
    """
    chosen = resolve(backend)
    for capability, reason in needs(model).items():
        if capability not in chosen.capabilities:
            able = [name for name, other in BACKENDS.items() if capability in other.capabilities]
            raise ModelError(
                f'backend "{chosen.name}" cannot {CAPABILITIES[capability]} ({reason}); '
                f"use backend={' or '.join(able)}"
            )
    return chosen.reader(model)
