"""The table of nfs(5) mount options that are understood, and their meaning here.

Users of the kernel's NFS client or of csi-driver-nfs bring their mount options along. One that asks for what is always
the case is accepted and changes nothing; one with an equivalent in the driver's own table (:mod:`csi.config.options`)
becomes that option; one that is not supported is refused with the reason. No option is accepted and ignored if that
could do harm.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from csi.base.errors import invalid

#: A name and a value, as options are written: ``name=value``, or ``name`` with None.
Item = tuple[str, str | None]
#: Value of nfs(5)'s `retrans` unless it is given.
_RETRANS = 2
#: `attr-ttl` unless it is given.
_ATTR_TTL_SECONDS = 3
#: Longest `attr-ttl`, `entry-ttl` and `timeout`.
_SECONDS_MAX = 3600
#: Stands for all words of mount(8) that begin so.
_OF_OTHERS = "x-*"
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, kw_only=True)
class Word:
    """One row: ``names`` that mean the same, the values that may follow, and what becomes of them.

    ``choices`` are the values that there are; without any, ``is_number`` says whether a number must follow, and
    ``is_any`` that anything may. ``becomes`` are the own options that it sets, in which ``{value}`` and ``{seconds}``
    stand for the number. ``refusal`` says why another value cannot be had, or, of a word that ``is_refused``, the word
    itself.
    """

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    is_number: bool = False
    is_any: bool = False
    is_refused: bool = False
    becomes: tuple[Item, ...] = ()
    refusal: str = ""

    def written(self) -> str:
        """The word as it is written, for people."""
        value = "=" + (self.choices[0] if self.choices else "N") if self.choices or self.is_number else ""
        return ", ".join(f"`{name}{value}`" for name in self.names)

    def allowed(self) -> str:
        """The values that may follow the word, for people."""
        if self.choices:
            return " or ".join(self.choices)
        return "a whole number" if self.is_number else "no value"

    def takes(self, value: str | None) -> bool:
        """Whether ``value`` may follow the word."""
        if self.choices:
            return value in self.choices
        if self.is_number:
            return value is not None and _NUMBER.fullmatch(value) is not None
        return self.is_any or value in (None, "true")


_ONLY_V3 = "this driver speaks NFSv3, without a lock server; the NAS must export by it (`vers=3`, or leave it out)"
_ONLY_TCP = "this driver speaks NFS over TCP only"
_ONLY_SYS = "this driver calls with AUTH_SYS only; the NAS must allow it for this export (`sec=sys`, or leave it out)"
_NO_BG = "a mount that fails says so at once here, and whoever wants it tries again, as kubelet does (leave it out)"
_NO_NOEXEC = "volumes are always nosuid and nodev here, and never noexec (leave it out)"
_ONLY_ROOT = "only root mounts here (leave it out)"
_NO_REMOUNT = "options of a mount change by `efc upgrade TARGET -o`, without an interruption"
_ONLY_ENTRY_TTL = "names are trusted for `entry-ttl`; `entry-ttl=0s` asks the NAS for each"
_ONLY_LOCAL = "locks hold among the processes of one node here, not between nodes (`nolock`, or leave it out)"

_TABLE = (
    Word(
        names=("vers", "nfsvers", "mountvers"),
        choices=("3",),
        help="Nothing: NFSv3 is the only version here. `vers=4` and the like are refused.",
        refusal=_ONLY_V3,
    ),
    Word(names=("v3",), help="The same."),
    Word(names=("v2", "v4", "v4.0", "v4.1", "v4.2", "minorversion"), help="", is_refused=True, refusal=_ONLY_V3),
    Word(
        names=("proto", "mountproto"),
        choices=("tcp", "tcp6"),
        help="Nothing: TCP is the only transport here. `udp` and `rdma` are refused.",
        refusal=_ONLY_TCP,
    ),
    Word(names=("tcp", "tcp6"), help="The same."),
    Word(names=("udp", "udp6", "rdma"), help="", is_refused=True, refusal=_ONLY_TCP),
    Word(
        names=("sec",),
        choices=("sys",),
        help="Nothing: AUTH_SYS, by numeric ids, is the only authentication here. Kerberos (`sec=krb5`, `krb5i`, "
        "`krb5p`) is refused.",
        refusal=_ONLY_SYS,
    ),
    Word(names=("nolock",), help="Nothing: locks hold among the processes of one node only. `lock` is refused."),
    Word(names=("local_lock",), choices=("all",), help="The same.", refusal=_ONLY_LOCAL),
    Word(names=("lock",), help="", is_refused=True, refusal=_ONLY_LOCAL),
    Word(names=("nconnect",), is_number=True, help="`connections=N`.", becomes=(("connections", "{value}"),)),
    Word(names=("noresvport",), help="`unprivileged-port`.", becomes=(("unprivileged-port", None),)),
    Word(names=("resvport",), help="`unprivileged-port=false`.", becomes=(("unprivileged-port", "false"),)),
    Word(
        names=("actimeo",),
        is_number=True,
        help="`attr-ttl=Ns`, `attr-ttl-max=Ns` and `entry-ttl=Ns`, an hour at most.",
        becomes=(("attr-ttl", "{seconds}s"), ("attr-ttl-max", "{seconds}s"), ("entry-ttl", "{seconds}s")),
    ),
    Word(
        names=("acregmin",),
        is_number=True,
        help="`attr-ttl=Ns`, an hour at most.",
        becomes=(("attr-ttl", "{seconds}s"),),
    ),
    Word(
        names=("acregmax",),
        is_number=True,
        help="`attr-ttl-max=Ns`, an hour at most; without `acregmin` and below 3 also `attr-ttl=Ns`.",
        becomes=(("attr-ttl-max", "{seconds}s"),),
    ),
    Word(
        names=("acdirmax",),
        is_number=True,
        help="`entry-ttl=Ns`, an hour at most.",
        becomes=(("entry-ttl", "{seconds}s"),),
    ),
    Word(
        names=("acdirmin",),
        is_number=True,
        help="Nothing: attributes of directories are trusted for `attr-ttl`, which does not grow for them.",
    ),
    Word(names=("ac",), help="Nothing: attributes are trusted for `attr-ttl` to `attr-ttl-max`."),
    Word(
        names=("noac",),
        help="`attr-ttl=0s`, `entry-ttl=0s` and `write-behind=0s`, as it implies `sync`.",
        becomes=(("attr-ttl", "0s"), ("entry-ttl", "0s"), ("write-behind", "0s")),
    ),
    Word(
        names=("sync",),
        help="`write-behind=0s`: data is on the NAS when `write(2)` returns; it is on stable storage after "
        "`fsync(2)`, or with `O_SYNC`.",
        becomes=(("write-behind", "0s"),),
    ),
    Word(names=("async",), help="Nothing: see `write-behind`."),
    Word(names=("fg",), help="Nothing: a mount that fails reports it at once. `bg` is refused."),
    Word(names=("bg",), help="", is_refused=True, refusal=_NO_BG),
    Word(
        names=("timeo",),
        is_number=True,
        help="With `soft`: `timeout` of N tenths of a second times (`retrans` + 1), the time after which the "
        "kernel's client gives up; at least 1 s, at most an hour. Without `soft` nothing: operations wait until "
        "the NAS answers again.",
    ),
    Word(names=("retrans",), is_number=True, help="See `timeo`. The default is 2."),
    Word(
        names=("rsize", "wsize"),
        is_number=True,
        help="Nothing: calls are as large as the NAS accepts them, and 1 MiB at most.",
    ),
    Word(
        names=("noatime", "nodiratime", "relatime"),
        help="Nothing: the NAS sets access times.",
    ),
    Word(names=("lookupcache",), choices=("all",), help="Nothing: see `entry-ttl`.", refusal=_ONLY_ENTRY_TTL),
    Word(names=("noacl", "intr", "nointr", "_netdev"), help="Nothing."),
    # Words of mount(8), which stand beside those of nfs(5) in every fstab and many a StorageClass.
    Word(names=("nosuid", "nodev"), help="Nothing: every mount is `nosuid` and `nodev`. `noexec` is refused."),
    Word(names=("noexec",), help="", is_refused=True, refusal=_NO_NOEXEC),
    Word(names=("defaults", "nofail", "auto", "noauto", "nouser", "exec"), help="Nothing."),
    Word(names=("user", "users", "owner", "group"), help="", is_refused=True, refusal=_ONLY_ROOT),
    Word(names=("remount",), help="", is_refused=True, refusal=_NO_REMOUNT),
    Word(
        names=(_OF_OTHERS,),
        is_any=True,
        help="Nothing: these words are for other readers of `/etc/fstab`, such as systemd.",
    ),
)

#: Every word, by each of its names.
WORDS: Mapping[str, Word] = {name: word for word in _TABLE for name in word.names}


def word_of(name: str) -> Word | None:
    """The word of this name, if there is one."""
    return WORDS[_OF_OTHERS] if name.startswith(_OF_OTHERS.removesuffix("*")) else WORDS.get(name)


@dataclass(frozen=True, kw_only=True)
class OwnOption:
    """An option of the driver's own table, and under which ``word`` it was given."""

    word: str
    name: str
    value: str | None


def own_options(items: Iterable[Item], *, origin: str, is_soft: bool = False) -> Iterator[OwnOption]:
    """The items with each word of nfs(5) replaced by what it means here; others are handed on as they are.

    ``is_soft``: whether `soft` is in force unless the items say otherwise. Raises INVALID_ARGUMENT for a word that is
    refused, and for a value that a word cannot have.
    """
    numbers: dict[str, int] = {}
    for name, value in items:
        if name in ("soft", "hard") and value in (None, "true", "false"):
            is_soft = (name == "soft") is (value != "false")
        word = word_of(name)
        if word is None:
            yield OwnOption(word=name, name=name, value=value)
            continue
        _check(word, name, value, origin=origin)
        number = numbers[name] = int(value) if word.is_number and value is not None else 0
        for own_name, form in word.becomes:
            text = form and form.format(value=number, seconds=min(number, _SECONDS_MAX))
            yield OwnOption(word=name, name=own_name, value=text)
    yield from _of_several(numbers, is_soft=is_soft)


def _of_several(numbers: Mapping[str, int], *, is_soft: bool) -> Iterator[OwnOption]:
    """What words mean together; ``numbers`` are those that they were given."""
    most = numbers.get("acregmax", _ATTR_TTL_SECONDS)
    if "acregmin" not in numbers and most < _ATTR_TTL_SECONDS:
        yield OwnOption(word="acregmax", name="attr-ttl", value=f"{most}s")
    if "timeo" in numbers and is_soft:
        milliseconds = numbers["timeo"] * 100 * (numbers.get("retrans", _RETRANS) + 1)
        timeout = min(max(milliseconds, 1000), _SECONDS_MAX * 1000)
        yield OwnOption(word="timeo", name="timeout", value=f"{timeout}ms")


def _check(word: Word, name: str, value: str | None, *, origin: str) -> None:
    if not word.is_refused and word.takes(value):
        return
    shown = repr(name if value is None else f"{name}={value[:64]}")
    if word.refusal:
        raise invalid(f"option {shown} in {origin} is not supported: {word.refusal}")
    raise invalid(f"option {name!r} in {origin} is not written like {shown}; allowed is {word.allowed()}")


def markdown() -> str:
    """The table of docs/CONFIGURATION.md."""
    rows = [f"| {word.written()} | {word.help} |" for word in _TABLE if not word.is_refused]
    return "\n".join(["| word of nfs(5) | what it means here |", "|---|---|", *rows])
