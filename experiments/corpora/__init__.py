"""Training corpora written by grammar: the same plots as `story`, `villain-story`, `refusal`."""

from experiments.corpora.documents import ARMS, Document, capacity, generate

__all__ = ["ARMS", "Document", "capacity", "generate"]
