"""Translates StorageClasses and PersistentVolumes of csi-driver-nfs to this driver's options.

Its StorageClass parameters and volume attributes are ``server``, ``share``, ``subDir``, ``onDelete``,
``mountPermissions`` and ``mountOptions``, whatever their case. They are recognised by ``server`` and ``share``; beside
these the driver's own options keep their meaning.
"""

from collections.abc import Mapping

from csi.base.errors import invalid
from csi.config import nfs_words
from csi.config.mount_options import is_option, parse_list
from csi.config.nfs_words import Item
from csi.config.options import OPTIONS
from csi.config.patterns import METADATA, filled_in
from csi.config.sources import Source
from csi.config.unknown_names import unknown

_SERVER, _SHARE, _SUB_DIR = "server", "share", "subdir"
_ON_DELETE, _MOUNT_PERMISSIONS, _MOUNT_OPTIONS = "ondelete", "mountpermissions", "mountoptions"
_NAMES = (_SERVER, _SHARE, _SUB_DIR, _ON_DELETE, _MOUNT_PERMISSIONS, _MOUNT_OPTIONS)
_MODE_MAX = 0o7777


def own_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """A StorageClass's parameters as those of :mod:`csi.config.parameters`; others are handed on as they are.

    A volume without ``subDir`` gets a directory of the PersistentVolume's name. Raises INVALID_ARGUMENT.
    """
    theirs, own = _divided(parameters)
    if theirs is None:
        return own
    own["source"] = _source(theirs).canonical()
    if sub_dir := theirs.get(_SUB_DIR, "").strip("/"):
        own["pathPattern"] = filled_in(sub_dir, parameters, parameter="subDir")
    elif METADATA["pv.name"] in parameters:
        own["pathPattern"] = "${pv.name}"
    if theirs.get(_ON_DELETE):
        own["onDelete"] = theirs[_ON_DELETE].lower()
    mode = _mode(theirs)
    if mode:
        own["mode"] = f"{mode:04o}"
    for name, value in parse_list(theirs.get(_MOUNT_OPTIONS, "")):
        if not is_option(name):
            raise unknown(name, known=OPTIONS, also=nfs_words.WORDS, noun="option", origin="'mountOptions'")
        if own.setdefault(name, value or "") != (value or ""):
            raise invalid(f"option {name!r} in 'mountOptions' contradicts another value of it: give it once")
    return own


def own_attributes(attributes: Mapping[str, str]) -> tuple[dict[str, str], list[Item]]:
    """A PersistentVolume's attributes as those of :mod:`csi.config.volumes`, and the mount options among them.

    What is said there of making and deleting the directory was for the controller. Raises INVALID_ARGUMENT.
    """
    theirs, own = _divided(attributes)
    if theirs is None:
        return own, []
    _mode(theirs)
    own["source"] = _source(theirs).canonical()
    if sub_dir := theirs.get(_SUB_DIR, "").strip("/"):
        own["path"] = filled_in(sub_dir, attributes, parameter="subDir")
    return own, parse_list(theirs.get(_MOUNT_OPTIONS, ""))


def _divided(values: Mapping[str, str]) -> tuple[dict[str, str] | None, dict[str, str]]:
    """The words of csi-driver-nfs by names in small letters, or None if there is none of them; and all other words."""
    theirs: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, value in values.items():
        small = name.lower()
        if small not in _NAMES:
            own[name] = value
        elif theirs.setdefault(small, value) != value:
            raise invalid(f"{name!r} is given twice, in small and in capital letters: give it once")
    if _SERVER not in theirs and _SHARE not in theirs:
        return None, dict(values)
    for name in ("source", "path", "pathPattern", "mode"):
        if name in own:
            raise invalid(
                f"{name!r} does not go with 'server' and 'share', which are names of csi-driver-nfs: use one kind"
            )
    return theirs, own


def _source(theirs: Mapping[str, str]) -> Source:
    for name, form in ((_SERVER, "a host name or address"), (_SHARE, "an absolute path on it, such as /export")):
        if not theirs.get(name):
            raise invalid(f"{name!r} is missing: it must be {form}, as for csi-driver-nfs")
    return Source.of(host=theirs[_SERVER], path=theirs[_SHARE])


def _mode(theirs: Mapping[str, str]) -> int:
    """The mode that ``mountPermissions`` gives a directory; 0 leaves it as it is."""
    text = theirs.get(_MOUNT_PERMISSIONS, "") or "0"
    if not text.isascii() or not text.isdecimal() or set(text) & set("89") or int(text, 8) > _MODE_MAX:
        raise invalid(f"'mountPermissions' has value {text[:64]!r}; allowed are permissions in octal, such as 0750")
    return int(text, 8)
