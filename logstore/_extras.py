"""The error message for a module that an extra of the distribution installs."""

from __future__ import annotations

PACKAGES = ("taskiq", "pydantic", "typing_extensions", "hypothesis", "pytest")


def missing(what: str, extra: str, error: ModuleNotFoundError) -> ImportError:
    """Return the error to raise, ``from None``, when one of our imports failed with ``error``.

    It is ``error`` itself if the missing package is in no extra: the installation is broken.
    """
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return error
    return ImportError(f"{what} needs {package}: pip install 'taskiq-logstore[{extra}]'")
