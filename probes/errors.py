"""The errors this project raises on purpose: each message says what is wrong, where, and what to do."""


class StorypriorError(ValueError):
    """Base of all deliberate errors. The command line prints its message and exits with status 2."""


class ModelError(StorypriorError):
    """A model reference, its weights or its architecture cannot be used."""


class DataError(StorypriorError):
    """Texts, labels, groups or activations are not what the function needs."""


class LayerError(StorypriorError):
    """A layer index is outside the model or missing from an artefact."""


class ArtefactError(StorypriorError):
    """A file of ours is missing, corrupt, or belongs to something else."""
