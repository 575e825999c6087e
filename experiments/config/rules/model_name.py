"""The rule for the name of a registered model."""

from __future__ import annotations

MAX_NAME = 256


def find_name_fault(key: str, name: str) -> str | None:
    """The message for a name that MLflow's model registry does not accept, else None.

    Args:
        key: the key or flag that sets the name, for the message.
        name: the name.
    """
    is_path = "/" in name or ":" in name or name == "." or name.startswith("..")
    if name.strip() == name != "" and not is_path and name.isprintable() and len(name) <= MAX_NAME:
        return None
    shown = name if len(name) <= MAX_NAME else f"{name[:20]}... ({len(name)} characters)"
    return (
        f"{key}={shown!r} is not a valid name in MLflow's registry; use up to {MAX_NAME} characters without / and :, "
        "for example digits-lenet"
    )
