"""Why a model folder is not trusted: every reason has a name, for tests, logs and people. Pure."""

from __future__ import annotations

from enum import StrEnum

from p2p.errors import Misconfigured


class Flaw(StrEnum):
    """What is wrong with a model folder."""

    NO_MODEL = "no-model"  # no folder, or nothing in it says what it is
    UNSERVED = "unserved"  # a kind of model that no pipeline here serves
    NOT_INSTALLED = "not-installed"  # what would run it is an extra that this machine does not have
    INCOMPLETE = "incomplete"  # a part or a file that it names is not there
    PICKLE = "pickle"  # weights only in a format that runs code when it is read
    REMOTE_CODE = "remote-code"  # it brings code, or names code elsewhere
    OUTSIDE = "outside"  # a link, or a path, that leads out of the folder
    NO_FILE = "no-file"  # a pipe, a device, or a folder where a file should be
    TOO_MANY = "too-many"  # more entries than a model has
    TOO_LARGE = "too-large"  # a file larger than such a file ever is
    TOO_DEEP = "too-deep"  # JSON nested past what any reader takes
    NO_JSON = "no-json"
    BAD_VALUE = "bad-value"  # a number or a name out of its bounds
    BAD_NAME = "bad-name"  # a file's name with separators, control characters or dots for a path
    BAD_HEADER = "bad-header"  # a safetensors header that is none, or lies about the file
    BAD_TENSOR = "bad-tensor"  # a tensor whose place, shape and type do not agree
    BAD_INDEX = "bad-index"  # an index of weights that names other files than those that are hashed


class BadModel(Misconfigured):
    """A folder that is not served. ``flaw`` is why; the text says where, and what to do about it."""

    def __init__(self, flaw: Flaw, text: str) -> None:
        super().__init__(f"{text} [{flaw.value}]")
        self.flaw = flaw
