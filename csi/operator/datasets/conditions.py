"""Conditions of a status: their present values, with the former transition times where nothing has changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from csi.api.status import ConditionStatus, ConditionType, DatasetCondition, RuntimeCondition

#: Longest message that is written; what API servers say of a quota or a schema can be long.
MESSAGE_LENGTH_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class Said:
    """A condition without its times."""

    type: ConditionType
    status: bool | None
    reason: str
    message: str = ""

    def written_status(self) -> ConditionStatus:
        """As Kubernetes writes it."""
        if self.status is None:
            return ConditionStatus.UNKNOWN
        return ConditionStatus.TRUE if self.status else ConditionStatus.FALSE


def short(text: str) -> str:
    """A text for people, not longer than is written."""
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 1] + "…"


def written_time(moment: datetime) -> str:
    """RFC 3339, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def of_dataset(said: Iterable[Said], status: Mapping[str, Any], *, now: datetime) -> tuple[DatasetCondition, ...]:
    """Conditions of a Dataset whose status is ``status``."""
    return tuple(
        DatasetCondition(
            **_same(one), last_transition_time=_transition(one, status, now), last_update_time=_update(one, status, now)
        )
        for one in said
    )


def of_runtime(said: Iterable[Said], status: Mapping[str, Any], *, now: datetime) -> tuple[RuntimeCondition, ...]:
    """Conditions of a runtime whose status is ``status``."""
    return tuple(
        RuntimeCondition(
            **_same(one), last_transition_time=_transition(one, status, now), last_probe_time=_update(one, status, now)
        )
        for one in said
    )


def present(status: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    """The condition of a type in a status; empty if it is not there."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return {}


def holds(status: Mapping[str, Any], kind: ConditionType) -> bool:
    """Whether a status says that a condition holds."""
    return present(status, kind).get("status") == ConditionStatus.TRUE


def _same(one: Said) -> dict[str, str]:
    return {
        "type": one.type,
        "status": one.written_status(),
        "reason": one.reason,
        "message": short(one.message),
    }


def _transition(one: Said, status: Mapping[str, Any], now: datetime) -> str:
    before = present(status, one.type)
    if before.get("status") == one.written_status() and before.get("lastTransitionTime"):
        return str(before["lastTransitionTime"])
    return written_time(now)


def _update(one: Said, status: Mapping[str, Any], now: datetime) -> str:
    before = present(status, one.type)
    at = before.get("lastUpdateTime") or before.get("lastProbeTime")
    unchanged = all(before.get(name, "") == value for name, value in _same(one).items())
    return str(at) if unchanged and at else written_time(now)
