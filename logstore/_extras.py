"""One sentence for a module that an extra of the distribution would have brought."""

from __future__ import annotations

PACKAGES = ("taskiq", "pydantic", "typing_extensions", "hypothesis", "pytest")


def missing(what: str, extra: str, error: ModuleNotFoundError) -> ImportError:
    """Return the error to raise, `from None`, when an import of ours met `error`.

    It is `error` itself if what is missing is of no extra: then the installation is broken.
    """
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return error
    return ImportError(f"{what} needs {package}: pip install 'taskiq-logstore[{extra}]'")
