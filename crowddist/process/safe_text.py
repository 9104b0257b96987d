"""What may be shown of a text: no secret, and nothing that acts on a terminal."""

from __future__ import annotations

import os
import re
import unicodedata

HIDDEN = "***"
"""Stands where a secret stood."""
# ours: shorter values are words like "true", which stand in many texts.
_SHORTEST_SECRET = 8
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(ACCESS|PRIVATE|API|ACCOUNT)_?KEY", re.IGNORECASE)
_NO_SECRET_NAME = re.compile(r"(_|^)(FILE|PATH|DIR|MODE|URI|URL)S?$", re.IGNORECASE)
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<name>[^\s/?#@:]*)(?P<password>:[^\s/?#]*)?@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>[?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|(?:[a-z_-]*_)?(?:ssl)?password|passwd|pwd|"
    r"(?:[a-z_-]*[_-])?(?:token|secret|(?:api|access|secret)[_-]?key)))=(?P<value>[^\s&;#'\"]+)", re.IGNORECASE)
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""What shows the text behind it from right to left: a name can look like another."""


def redacted(text: str) -> str:
    """The text without passwords and signatures of addresses, and without the values of this process's secret
    variables.
    """
    text = _PARAMETER.sub(rf"\g<name>={HIDDEN}", _USER.sub(_without_password, text))
    for value in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def holds_secret(text: str) -> bool:
    """Whether a text is or holds an address with a password, a token in the place of a user, or a signature; or the
    value of a secret variable.
    """
    return redacted(text) != text


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET_NAME.search(name)


def readable(text: str) -> str:
    r"""The text with \x1b and the like in the place of control characters, of what turns the direction of writing, and
    of bytes that are no text.
    """
    return "".join(char.encode("unicode_escape").decode() if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _TURNING


def _without_password(match: re.Match[str]) -> str:
    """Of a web address nothing before the `@` stays: a name alone may be a token."""
    web = match["scheme"].lower() in ("http://", "https://")
    if match["password"] is None and not web:
        return match[0]
    return f"{match['scheme']}{HIDDEN if web else match['name'] + ':' + HIDDEN}@"


def _secrets() -> set[str]:
    return {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= _SHORTEST_SECRET}
