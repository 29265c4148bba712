"""Checks paths of volumes below a source, and the components that a path may have.

Against path traversal, paths are refused, never normalised: a ``..`` is an error wherever a component could be, also
with backslashes for slashes, and whatever normalisation would make of it. The second line of defence is elsewhere:
efc-mount-helper opens a volume's directory by openat2 beneath the dataset's root, without following links, and works on
what it has opened.
"""

from csi.base.errors import DriverError, invalid

COMPONENT_LENGTH_MAX = 255
RELATIVE_LENGTH_MAX = 1024
DEPTH_MAX = 64


def check_components(text: str) -> list[str]:
    """The components of a relative path; raises INVALID_ARGUMENT whose message continues "the path ..."."""
    if not text.isprintable() or any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid("contains a control character or something else that cannot be printed")
    # Before and after: "a\\..\\b" is one odd name here, but a way out for whoever takes backslashes for slashes.
    for form in (text, text.replace("\\", "/")):
        if ".." in form.split("/"):
            raise invalid("contains '..'")
    components = text.split("/")
    if "" in components or "." in components:
        raise invalid("contains an empty component or '.'")
    if len(components) > DEPTH_MAX:
        raise invalid(f"has more than {DEPTH_MAX} components")
    if any(len(component.encode()) > COMPONENT_LENGTH_MAX for component in components):
        raise invalid(f"has a component of more than {COMPONENT_LENGTH_MAX} bytes")
    return components


def check_relative(path: str, *, noun: str) -> str:
    """``path`` itself, below a source; "" is the source's own directory. Raises INVALID_ARGUMENT."""
    if path == "":
        return ""
    try:
        if len(path.encode(errors="replace")) > RELATIVE_LENGTH_MAX:
            raise invalid(f"is longer than {RELATIVE_LENGTH_MAX} bytes")
        if path.startswith(("/", "\\")):
            raise invalid("is absolute; it must be relative to the source")
        check_components(path)
    except DriverError as error:
        raise invalid(f"{noun} {path[:256]!r} {error.message}") from None
    return path
