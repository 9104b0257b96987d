"""Makes text safe to show: no secrets, no terminal controls."""

from __future__ import annotations

import os
import re
import unicodedata

HIDDEN = "***"
"""Replaces a secret."""
_SHORTEST_SECRET = 8  # ours: shorter values are words like "true", which occur in many texts
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(ACCESS|PRIVATE|API|ACCOUNT)_?KEY", re.IGNORECASE)
_NO_SECRET_NAME = re.compile(r"(_|^)(FILE|PATH|DIR|MODE|URI|URL)S?$", re.IGNORECASE)
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<name>[^\s/?#@:]*)(?P<password>:[^\s/?#]*)?@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>[?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|(?:[a-z_-]*_)?(?:ssl)?password|passwd|pwd|"
    r"(?:[a-z_-]*[_-])?(?:token|secret|(?:api|access|secret)[_-]?key)))=(?P<value>[^\s&;#'\"]+)", re.IGNORECASE)
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of writing: with them one name can look like another."""


def redacted(text: str) -> str:
    """The text without passwords and signatures in addresses, and without values of secret environment variables."""
    text = _PARAMETER.sub(rf"\g<name>={HIDDEN}", _USER.sub(_without_password, text))
    secrets = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= _SHORTEST_SECRET}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def holds_secret(text: str) -> bool:
    """True if `redacted` changes the text."""
    return redacted(text) != text


def is_secret_name(name: str) -> bool:
    """True for names of environment variables that hold secrets."""
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET_NAME.search(name)


def readable(text: str) -> str:
    r"""The text with escapes (\x1b) for control characters, changes of direction, and bytes that are no text."""
    def acts(char: str) -> bool:
        return char in _TURNING or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")

    return "".join(char.encode("unicode_escape").decode() if acts(char) else char for char in text)


def _without_password(match: re.Match[str]) -> str:
    """In a web address also hides a name without a password: it may be a token."""
    web = match["scheme"].lower() in ("http://", "https://")
    if match["password"] is None and not web:
        return match[0]
    return f"{match['scheme']}{HIDDEN if web else match['name'] + ':' + HIDDEN}@"
