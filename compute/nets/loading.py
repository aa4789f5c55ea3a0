"""What the model libraries raise on a folder that is no model, or a damaged one: they have no common ancestor."""

from typing import Final

from safetensors import SafetensorError

BAD_FILES: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    AttributeError,
    SafetensorError,
)
