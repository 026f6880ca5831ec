"""Where the shipped texts are: beside the packages in a checkout, inside `probes` in an installed wheel."""

from pathlib import Path

from probes.errors import ArtefactError

_HERE = Path(__file__).resolve().parent
_ROOTS = (_HERE / "_assets", _HERE.parent / "assets")


def asset_path(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. `asset_path("contrasts", "ai-villain-persona.jsonl")`.

    Raises:
        ArtefactError: the file is not part of this installation.
    """
    for root in _ROOTS:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise ArtefactError(f"asset {'/'.join(parts)!r} is not installed; reinstall storyprior")
