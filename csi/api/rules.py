"""What Kubernetes' schemas cannot say: one rule for each wrong input, in CEL and in Python, with its words.

The CRDs have the rules as ``x-kubernetes-validations``, so that ``kubectl create`` refuses. Where Fluid's CRDs are
installed, :mod:`csi.api.checks` finds the same and says it with the same words, which stand only here.

The API server takes no rule that could become dear: it reckons with the longest lists and texts that the schema lets
through. So these have limits, and a message has the value in it only where the value's length has one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csi.api.quantities import bytes_of
from csi.base.errors import DriverError

#: Smallest quota of a level: less than this memcached does not start with.
QUOTA_MIN = "64Mi"
#: Longest message that the API server takes from a messageExpression, in bytes, is 5 KiB; values are cut long before.
_SHOWN_LENGTH_MAX = 256
_VALUE = "'{value}'"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is right, for one field or object: ``cel`` is true of it, and ``holds`` of the same as JSON.

    ``words`` say of what is wrong what to write instead. ``{value}`` in them stands for the field's value, or for that
    of the field ``at`` (``.high``) within the object that the rule is of; of a list, ``cel_value`` and ``value`` say
    what it stands for.
    """

    cel: str
    holds: Callable[[Any], bool]
    words: str
    at: str = ""
    cel_value: str = ""
    value: Callable[[Any], str] | None = None

    def shown(self, wrong: Any) -> str:  # noqa: ANN401
        """The value, as JSON is given, that does not keep the rule."""
        if self.value is not None:
            return self.value(wrong)
        return str(wrong[self.at.removeprefix(".")] if self.at else wrong)

    def says(self, value: str) -> str:
        """The message about ``value``, as the API server gives it; what may have a password in it is not repeated."""
        if any(character in value for character in "\n\r@"):
            return self.general()
        return self.words.format(value=value[:_SHOWN_LENGTH_MAX])

    def general(self) -> str:
        """The message when the value cannot be shown."""
        return self.words.replace(_VALUE, "this")

    def validation(self) -> dict[str, str]:
        """The item of ``x-kubernetes-validations``."""
        validation = {"rule": self.cel, "message": self.general()}
        if _VALUE in self.words:
            before, after = self.words.split(_VALUE)
            value = self.cel_value or f"self{self.at}"
            shown = f"(size({value}) > {_SHOWN_LENGTH_MAX} ? {value}.substring(0, {_SHOWN_LENGTH_MAX}) : {value})"
            whole = f"{_quoted(before + chr(39))} + {shown} + {_quoted(chr(39) + after)}"
            validation["messageExpression"] = f"{value}.contains('@') ? {_quoted(self.general())} : {whole}"
        if self.at:
            validation["fieldPath"] = self.at
        return validation


def _quoted(text: str) -> str:
    """A literal of CEL, of a text or a regular expression."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _matches(pattern: str) -> str:
    """Whether the field matches, in CEL."""
    return f"self.matches({_quoted(pattern)})"


def _is_match(pattern: str, text: str) -> bool:
    """The same in Python, whose "$" would also match before a newline at the end."""
    return re.search(pattern.replace("$", r"\Z"), text) is not None


_SCHEMES = "^(nfs|cpfs|pvc)://"
_NFS = "^(nfs|cpfs)://"
_AUTHORITY = _NFS + r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)"
_HOST = _AUTHORITY + "([:/]|$)"
_DIRECTORY = _AUTHORITY + "(:[0-9]{1,5})?:?/"
_CLAIM = "^pvc://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(/|$)"
#: Backslashes are taken for slashes by some; behind "?" stand the parameters of a source.
_UPWARDS = r"(^|[/\\])[.][.]([/\\?]|$)"

SCHEME = Rule(
    cel=_matches(_SCHEMES),
    holds=lambda text: _is_match(_SCHEMES, text),
    words="'{value}' is not a supported source: write nfs://HOST[:PORT]:/DIR, cpfs://HOST[:PORT]:/DIR or "
    "pvc://CLAIM[/DIR]",
)
HOST = Rule(
    cel=f"!{_matches(_NFS)} || {_matches(_HOST)}",
    holds=lambda text: not _is_match(_NFS, text) or _is_match(_HOST, text),
    words="'{value}' names no host: write nfs://HOST[:PORT]:/DIR, with an IPv6 address in brackets",
)
DIRECTORY = Rule(
    cel=f"!{_matches(_HOST)} || {_matches(_DIRECTORY)}",
    holds=lambda text: not _is_match(_HOST, text) or _is_match(_DIRECTORY, text),
    words="'{value}' names no absolute directory: write nfs://HOST[:PORT]:/DIR",
)
CLAIM = Rule(
    cel=f"!self.startsWith('pvc://') || {_matches(_CLAIM)}",
    holds=lambda text: not text.startswith("pvc://") or _is_match(_CLAIM, text),
    words="'{value}' names no claim: write pvc://CLAIM[/DIR], with the name that kubectl get pvc prints",
)
UPWARDS = Rule(
    cel=f"!{_matches(_UPWARDS)}",
    holds=lambda text: not _is_match(_UPWARDS, text),
    words="'{value}' contains '..': write the directory that is meant",
)

_GIVEN = "((has(m.path) && m.path != '') || (has(m.name) && m.name != ''))"


def _given(mount: Mapping[str, Any]) -> str:
    return str(mount.get("path") or mount.get("name") or "")


PLACED = Rule(
    cel=f"self.size() < 2 || self.all(m, {_GIVEN})",
    holds=lambda mounts: len(mounts) < 2 or all(map(_given, mounts)),  # noqa: PLR2004
    words="'{value}' has neither path nor name: of several mounts give each a path, or a name, which stands for /NAME",
    cel_value=f"self.map(m, !{_GIVEN}, m.mountPoint)[0]",
    value=lambda mounts: next(str(mount["mountPoint"]) for mount in mounts if not _given(mount)),
)

# Where the mounts show, with one slash at both ends; found once for all pairs, since each pair costs.
_PLACE = "('/' + (has(m.path) && m.path != '' ? m.path : has(m.name) ? m.name : '') + '/')"
_PLACES = f"self.map(m, {_PLACE}.replace('//', '/').replace('//', '/'))"
_IS_ALONE = "places.exists_one(other, other.startsWith(place))"


def _shared_places(mounts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mounts' places at or inside which there is another mount; slashes too many count for nothing."""
    places = ["".join(f"/{part}" for part in _given(mount).split("/") if part) + "/" for mount in mounts]
    return [place for place in places if sum(other.startswith(place) for other in places) > 1]


APART = Rule(
    cel=f"self.size() < 2 || !self.all(m, {_GIVEN}) || [{_PLACES}].all(places, places.all(place, {_IS_ALONE}))",
    holds=lambda mounts: not all(map(_given, mounts)) or not _shared_places(mounts),
    words="two mounts are at '{value}', or one there and one inside: give each a path of its own, outside all others",
    cel_value=f"[{_PLACES}].map(places, places.filter(place, !{_IS_ALONE}))[0][0]",
    value=lambda mounts: _shared_places(mounts)[0],
)

_CLEAN_POLICIES = ("", "OnDemand", "OnRuntimeDeleted", "OnFuseChanged")
CLEAN_POLICY = Rule(
    cel=f"self in {list(_CLEAN_POLICIES)}",
    holds=lambda text: text in _CLEAN_POLICIES,
    words="'{value}' is unknown: write OnDemand or OnRuntimeDeleted",
)


def _is_enough(quantity: str | int) -> bool:
    """Whether a quota is large enough, or none that could be compared."""
    try:
        return bytes_of(quantity) >= bytes_of(QUOTA_MIN)
    except DriverError:
        return not str(quantity).startswith("-")


QUOTA = Rule(
    cel=f"!quantity(string(self)).isLessThan(quantity('{QUOTA_MIN}'))",
    holds=_is_enough,
    words=f"a quota this small is not enough for a cache: write {QUOTA_MIN} or more",
)
QUOTA_LIST = Rule(
    cel=f"self.split(',').all(q, !quantity(q).isLessThan(quantity('{QUOTA_MIN}')))",
    holds=lambda text: all(map(_is_enough, text.split(","))),
    words=f"'{{value}}' has a quota too small for a cache: write {QUOTA_MIN} or more for each path",
)
QUOTA_LENGTH = Rule(
    cel="!has(self.quotaList) || "
    "self.quotaList.split(',').size() == (has(self.path) ? self.path : '').split(',').size()",
    holds=lambda level: "quotaList" not in level or level["quotaList"].count(",") == level.get("path", "").count(","),
    words="'{value}' must have as many quotas as path has paths: write one for each path, with commas between them",
    at=".quotaList",
)
_NUMBER = "^[0-9]{1,9}([.][0-9]{0,9})?$"


def _is_above(level: Mapping[str, str]) -> bool:
    """Whether `high` is no less than `low`, or one of them is no number."""
    high, low = level.get("high", ""), level.get("low", "")
    return not _is_match(_NUMBER, high) or not _is_match(_NUMBER, low) or float(high) >= float(low)


WATERMARKS = Rule(
    cel="!has(self.high) || !has(self.low) || "
    + " || ".join(f"!{_matches(_NUMBER).replace('self', f'self.{name}')}" for name in ("high", "low"))
    + " || double(self.high) >= double(self.low)",
    holds=_is_above,
    words='\'{value}\' is below low: write high above low, such as high: "0.95" and low: "0.7"',
    at=".high",
)
REPLICAS = Rule(
    cel="self >= 0",
    holds=lambda number: number >= 0,
    words="a number of workers cannot be negative: write 0 for none, or more",
)
#: Of AUTH_SYS (RFC 5531, appendix A): ids have 32 bits.
OWNER_ID_MAX = (1 << 32) - 1
OWNER_ID = Rule(
    cel=f"self >= 0 && self <= {OWNER_ID_MAX}",
    holds=lambda number: 0 <= number <= OWNER_ID_MAX,
    words=f"no user or group of a NAS has this number: write one from 0 to {OWNER_ID_MAX}",
)
MASTER_DISABLED = Rule(
    cel="!has(self.disabled) || !self.disabled",
    holds=lambda master: not master.get("disabled", False),
    words="the master cannot be disabled, because nodes learn about workers from it: leave disabled out",
    at=".disabled",
)
