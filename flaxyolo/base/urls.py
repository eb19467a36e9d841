"""URLs of databases as they may be shown: no message, log or file has a password of one."""

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import unquote

from flaxyolo.base.errors import InputError

ENVIRONMENT = "env:"
"""Begins what names an environment variable that has the URL."""
HIDDEN = "***"
EXAMPLES = "sqlite:///studies.db, postgresql://user:password@host/name or grpc://host:13000"
ENCODED = "of a password / ? # [ ] @ : % are written as %2F %3F %23 %5B %5D %40 %3A %25"

_PLAIN = re.compile(r"(?!.*(//|password))[\w. /\\-]+")
"""What is no URL, and holds none: a name or path."""
_FILE = re.compile(r"(?P<head>sqlite(\+\w+)?:///)(?P<path>[^?]*)(?P<more>\?.*)?", re.DOTALL)
_SERVER = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
        (?:(?P<user>[\w.~+-]*)(?P<given>:(?P<password>[^@/?\#\[\]\s]*))?@)?
        (?P<place>(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])?(?::\d{1,5})?)
        (?P<name>/[\w./~-]*)?
        (?P<more>\?[^@\#]*)?""",
    re.VERBOSE | re.ASCII,
)
"""A URL that has one meaning only: where the password ends is not to be guessed."""

CAUSES = (
    "connection refused",
    "password authentication failed",
    "no password supplied",
    "name or service not known",
    "failed to resolve host",
    "could not translate host name",
    "timeout expired",
    "timed out",
    "does not exist",
    "unable to open database file",
    "invalid port",
    "invalid literal",
    "could not parse",
    "load plugin",
    "no module named",
)
"""What a driver may be quoted with where its other words could repeat a part of a password."""


def resolved(given: str) -> str:
    """The URL that `--storage` names: itself, or that of an environment variable (`env:NAME`)."""
    if not given.startswith(ENVIRONMENT):
        return given
    name = given.removeprefix(ENVIRONMENT)
    url = os.environ.get(name)
    if not url:
        raise InputError(f"--storage {given}: expected a URL in the environment variable {name!r}, "
                         "found none")  # fmt: skip
    return url


def hidden(url: str) -> str:
    """A URL as it may be shown: without its password, and without all that may be a part of it.

    Of one that can be read in several ways the kind alone is left.
    """
    if url.startswith(ENVIRONMENT) or _PLAIN.fullmatch(url):
        return url
    if found := _FILE.fullmatch(url):
        path = HIDDEN if re.search(r":[^/]*@", found["path"]) else found["path"]
        return f"{found['head']}{path}{_query(found['more'])}"
    if found := _SERVER.fullmatch(url):
        who = "" if found["user"] is None else f"{HIDDEN}@"
        if found["given"] is not None:
            who = f"{found['user']}:{who}"
        name = found["name"] or ""
        return f"{found['scheme']}://{who}{found['place']}{name}{_query(found['more'])}"
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url)
    return f"{scheme[0] if scheme else ''}{HIDDEN}"


def quoted(url: str, words: str) -> str:
    """What a driver says of a URL, in a line and without what is hidden of it."""
    lines = words.strip().splitlines()
    line = lines[0].strip() if lines else ""
    if hidden(url) == url:
        return line
    if not (_FILE.fullmatch(url) or _SERVER.fullmatch(url)):
        known = [cause for cause in CAUSES if cause in line.lower()]
        return known[0] if known else "it is not understood"
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        line = line.replace(secret, HIDDEN)
    return line


def hint(url: str) -> str:
    """How to write a password, where the URL does not tell its end; otherwise nothing."""
    unclear = hidden(url).endswith(f"//{HIDDEN}") and "@" in url
    return f"; {ENCODED}" if unclear else ""


def without_password(word: str) -> str:
    """A word of a command as it may be shown, whichever flag it belongs to."""
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    is_address = "://" in value or re.search(r":[^/]*@|password", value)
    return f"{flag}{equals}{hidden(value)}" if is_address else word


def hide_in_argv(url: str | None) -> None:
    """Let the words of this process's command show no password to who stores them, such as a logger
    of experiments."""
    if url and hidden(url) != url:
        sys.argv = [word.replace(url, hidden(url)) for word in sys.argv]


def _query(more: str | None) -> str:
    return f"?{HIDDEN}" if more else ""


def _secrets(url: str) -> Iterator[str]:
    """The password and every value behind the question mark, as written and as meant."""
    found = _SERVER.fullmatch(url) or _FILE.fullmatch(url)
    parts = found.groupdict() if found else {}
    values = [parts.get("password")]
    values += [part.partition("=")[2] for part in (parts.get("more") or "")[1:].split("&")]
    if found and parts.get("path"):
        values += [parts["path"]] if HIDDEN in hidden(url).partition("?")[0] else []
    for value in filter(None, values):
        yield from (value, unquote(value))
