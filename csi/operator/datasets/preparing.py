"""The part of a decision that does not depend on pods: where the data is, its options, the desired objects.

Pure, like the decision that continues from it. It is most of a decision's work (it verifies certificates, parses
options and builds objects), and the same in each of the dozen decisions until a Dataset is Bound. So it is recomputed
only when one of its inputs has changed, or a certificate is due.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.base.errors import Code, DriverError
from csi.config.mount_options import parse
from csi.config.several import Sources, origin_of
from csi.operator import pki
from csi.operator.cluster import Json
from csi.operator.datasets import told
from csi.operator.datasets.seen import No, Place, Prepared, Seen, if_owned
from csi.operator.datasets.steps import there
from csi.operator.names import Names
from csi.operator.objects.options import mount_options
from csi.operator.objects.settings import Known, Settings
from csi.operator.objects.volume import SOURCES_ANNOTATION
from csi.operator.objects.wanted import Wanted, wanted_objects

#: Between two tries to reach a source that could not be reached, and to find out where it is.
PROBE_AGAIN_SECONDS = 5.0


def prepared(seen: Seen, settings: Settings, dataset: Json, runtime: Json) -> Prepared:
    """Of these two objects, which are those of ``seen``: what was prepared before, if that is good still."""
    made_of, former = _made_of(seen, settings, dataset, runtime), seen.prepared
    stored = tuple(one is not None for one in seen.secrets.all())
    identities = None if former is None else _identities(former, seen)
    if former is not None and former.made_of == made_of and (former.wanted is None or identities is not None):
        return replace(former, stored=stored)
    preparing = _Preparing(seen, settings, Dataset.model_validate(dataset), EFCRuntime.model_validate(runtime))
    return preparing.done(made_of=made_of, stored=stored, identities=identities)


def _made_of(seen: Seen, settings: Settings, dataset: Json, runtime: Json) -> tuple[object, ...]:
    """All that :func:`prepared` looks at, but for Secrets of ours and the time."""
    return (
        settings,
        *((_metadata(one), one.get("spec")) for one in (dataset, runtime)),
        seen.options,
        seen.origin,
        seen.allowed,
        _is_address_lost(seen),
        *(None if one is None else (_metadata(one), one["spec"]) for one in (seen.service, seen.claim)),
        *((_metadata(one), one["spec"]) for one in seen.volumes),
    )


def _identities(former: Prepared, seen: Seen) -> pki.Identities | None:
    """Those that were wanted before, while they hold and nobody has changed or deleted a Secret of them."""
    wanted = former.wanted
    # By a clock that was put back they may not have begun.
    if wanted is None or seen.now < former.at or (former.due is not None and seen.now >= former.due):
        return None
    for one, found, was_stored in zip(wanted.secrets(), seen.secrets.all(), former.stored, strict=True):
        if was_stored if found is None else not is_stored(one, found):
            return None
    return wanted.identities


def _is_address_lost(seen: Seen) -> bool:
    """Whether the API server has refused the Service for its address: somebody else's is there, or other ranges are."""
    name = Names(namespace=seen.name[0], name=seen.name[1], uid=there(seen.dataset)["metadata"]["uid"]).master
    return "spec.clusterIP" in seen.refused.get(f"Service/{name}", "")


def is_stored(wanted: Json, found: Json | None) -> bool:
    """Whether a Secret has all that it is to have."""
    data = (found or {}).get("data") or {}
    return all(data.get(name) == text for name, text in wanted["data"].items())


def _metadata(found: Json) -> dict[str, Any]:
    """Without what controllers note there, but for our own notes."""
    metadata = found["metadata"]
    kept = {name: metadata.get(name) for name in ("name", "namespace", "uid", "generation", "ownerReferences")}
    annotations = metadata.get("annotations") or {}
    if found["spec"].get("csi") is not None:
        annotations = {SOURCES_ANNOTATION: annotations.get(SOURCES_ANNOTATION)}
    return kept | {"annotations": annotations}


class _Preparing:
    """One time that it is made."""

    def __init__(self, seen: Seen, settings: Settings, dataset: Dataset, runtime: EFCRuntime) -> None:
        self._seen, self._settings = seen, settings
        self._dataset, self._runtime = dataset, runtime
        self._names = Names.of(dataset.metadata)

    def done(
        self, *, made_of: tuple[object, ...], stored: tuple[bool, ...], identities: pki.Identities | None
    ) -> Prepared:
        """All of it, with ``identities`` if they are known to be good."""
        ignored = tuple(told.ignored(self._dataset, self._runtime, self._settings))
        found: dict[str, Any] = {
            "made_of": made_of, "at": self._seen.now, "stored": stored,
            "dataset": self._dataset, "runtime": self._runtime, "ignored": ignored,
        }  # fmt: skip
        seen, origin = self._seen, self._seen.origin
        problem, options = told.options(self._dataset, self._runtime, self._settings, secrets=seen.options)
        if problem:
            return Prepared(**found, no=No(reason="InvalidSpec", message=problem))
        if origin is None:
            no = No(reason="Preparing", message="the source is being looked up")
            return Prepared(**found, no=no, again_seconds=1.0)
        if origin.reason:
            no = No(reason="SourceUnknown", message=origin.reason)
            return Prepared(**found, no=no, again_seconds=PROBE_AGAIN_SECONDS)
        try:
            found["place"] = place = self._place(origin.source)
            known = self._known(place)
            wanted = wanted_objects(self._dataset, self._runtime, self._settings, known=known, identities=identities)
        except DriverError as error:
            refused = error.code is Code.PERMISSION_DENIED
            return Prepared(
                **found, no=No(reason="SourceNotAllowed" if refused else "InvalidSpec", message=error.message)
            )
        return Prepared(**found, wanted=wanted, due=_due(wanted), options=options)

    def _place(self, source: str) -> Place:
        """Where the data is: with the ports that options name, and from a listed directory on where there is a list.

        Raises PERMISSION_DENIED, INVALID_ARGUMENT.
        """
        options = parse(
            mount_options(self._dataset, self._runtime, self._settings).items(), origin="the Dataset's options"
        )
        given = origin_of(source).with_ports(port=options.port, mount_port=options.mount_port)
        if isinstance(given, Sources):
            for one in given.mounted:
                self._seen.allowed.check_listed(one.source, namespace=self._seen.name[0])
            return Place(source=given.canonical(), root=given.canonical())
        volume = self._seen.volume_of(self._names, driver=self._settings.driver)
        present = str(volume["spec"]["csi"]["volumeAttributes"].get("source", "")) if volume is not None else ""
        root = self._seen.allowed.root(given, namespace=self._seen.name[0], present=present)
        return Place(source=given.canonical(), root=root.canonical())

    def _known(self, place: Place) -> Known:
        seen = self._seen
        return Known(
            source=place.root,
            path=place.path,
            are_listed=seen.allowed.rules is not None,
            is_address_lost=_is_address_lost(seen),
            now=seen.now,
            random=seen.random,
            authority=seen.secrets.authority,
            node_secret=seen.secrets.node,
            master_secret=seen.secrets.master,
            worker_secret=seen.secrets.worker,
            service=if_owned(seen.service, self._runtime.metadata),
            volume=seen.volume_of(self._names, driver=self._settings.driver),
            claim=if_owned(seen.claim, self._runtime.metadata),
        )


def _due(wanted: Wanted) -> datetime | None:
    times = [pki.renewal_time(secret) for secret in wanted.secrets()]
    return min((moment for moment in times if moment is not None), default=None)
