"""Training corpora of all arms, written by grammar and by hand, or by a language model."""

from experiments.corpora.documents import (
    ARMS,
    PAIRED,
    Document,
    capacity,
    document,
    generate,
    write_documents,
)

__all__ = ["ARMS", "PAIRED", "Document", "capacity", "document", "generate", "write_documents"]
