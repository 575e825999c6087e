"""What a registered model may be called."""

from __future__ import annotations

MAX_NAME = 256


def find_name_fault(key: str, name: str) -> str | None:
    """What is wrong with a name that MLflow's registry is to know a model by; None where nothing is.

    Args:
        key: what the user gave it by, for the message.
        name: the name.
    """
    is_path = "/" in name or ":" in name or name == "." or name.startswith("..")
    if name.strip() == name != "" and not is_path and name.isprintable() and len(name) <= MAX_NAME:
        return None
    shown = name if len(name) <= MAX_NAME else f"{name[:20]}... ({len(name)} characters)"
    return (
        f"{key}={shown!r} is no name that MLflow's registry takes; give up to {MAX_NAME} characters without / and :, "
        "such as digits-lenet"
    )
