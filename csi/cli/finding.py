"""What ``efc doctor`` says about one thing that it looked at."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``level`` is ok, warn or fail; ``mend`` says what to do unless it is ok."""

    check: str
    level: str
    message: str
    mend: str = ""
