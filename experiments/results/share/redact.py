"""What may not go out with a shared run: secrets, and words that tell who made it, on which machine, in which folder."""

from __future__ import annotations

import codecs
import getpass
import os
import pwd
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from experiments.config import options
from experiments.core.secrets import SECRET_LINES, SECRET_VALUES, looks_secret, resolve
from experiments.results.share.strict_yaml import is_deceptive
from experiments.run import journal
from experiments.trial.trial import Trial

SHORTEST = 3
LONG = 4  # in megabytes of anything, three letters stand by chance
GENERIC = {
    "root", "user", "admin", "ubuntu", "debian", "nobody", "runner", "guest", "home", "localhost", "localdomain",
    "linux", "host", "will", "mark", "ray", "art", "bill", "may", "june", "april", "grace", "hope", "joy", "guy", "pat",
    "chase", "miles", "page", "grant", "dean", "norm", "rob", "sue", "van", "rich", "frank", "drew", "rose", "dawn", "rand",
    "case", "day", "long", "young", "",
}  # fmt: skip
"""Names that tell nothing of anyone, or are words that any text may hold."""
ROOTS = {"", "/tmp", "/home", "/usr", "/var", "/opt", "/data", "/root", "/mnt", "/srv", "/var/tmp"}
"""Folders that every machine has."""
PLACEHOLDERS = {"secret": "***", "folder": "[folder]", "host": "[host]", "user": "[user]", "address": "[address]"}
"""What takes the place of each kind."""
SAID = {
    "secret": "a secret", "folder": "a folder of this machine", "host": "the name of a machine", "user": "a user's name",
    "address": "somebody's address",
}  # fmt: skip
PATHS = re.compile(
    r"(?<![\w/.~-])(?:~[\w.-]*|file:(?://)?)?(?:/[\w.@+~=-]+){2,}/?"  # /home/me/x, ~me/data/x, file:/scratch/x, host:/a/b
    r"|/(?:home|Users)/[\w.@+~=-]+"  # whatever stands before it
    r"|(?<![\w/.-])~[\w.-]*/[\w.@+~=/-]+"  # ~/x
    r"|\b[A-Za-z]:[\\/](?!/)[^\s\"'<>|]+|\\\\[\w.-]+\\[^\s\"'<>|]+"
    r"|(?<![\w/.:-])//[\w.-]+/[^\s\"'<>|]+"  # //server/share
    r"|\b(?:s3|s3a|gs|gcs|az|abfss?|wasbs?|hdfs|webhdfs|nfs|smb|ssh|sftp|scp|dbfs|oss)://[^\s\"'<>|]+"
)
# Bounded, so that a long text without blanks takes no time with the square of its length.
ADDRESSES = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
PRIVATE_HOSTS = re.compile(
    r"\b(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})\b"
    r"|\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.(?:internal|intranet|lan|corp)\b"
    r"|(?<![\w./@-])[A-Za-z][A-Za-z-]{0,40}\d[\w-]{0,20}(?:\.[\w-]{1,63}){1,6}"  # node17.x.edu
    r"\.(?:edu|gov|mil|com|org|cluster|local|ac\.[a-z]{2})\b"
)
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HOST_VARIABLES = ("HOSTNAME", "HOST", "SLURMD_NODENAME", "SLURM_SUBMIT_HOST", "SLURM_CLUSTER_NAME")


@dataclass(frozen=True)
class Finding:
    """A part of a text that may not go out."""

    kind: str
    start: int
    end: int


class Scrubber:
    """Knows what tells of a user, of machines and of folders."""

    def __init__(
        self,
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        folders: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        """
        Args:
            users: names; those that are ordinary words of configurations, or nobody's in particular, are left alone.
            hosts: names of machines, short or in full; likewise.
            folders: absolute paths.
            secrets: texts that are passwords, whatever they look like.
        """
        common = GENERIC | vocabulary()
        hosts = {part for full in hosts for part in (full, full.partition(".")[0])}
        known = [
            ("user", _words(name for name in users if len(name) >= SHORTEST and name.lower() not in common)),
            ("host", _words(name for name in hosts if len(name) >= SHORTEST and name.lower() not in common)),
            ("folder", _words({folder.rstrip("/") for folder in folders} - ROOTS)),
            ("secret", "|".join(re.escape(secret) for secret in secrets if len(secret) > 5)),
        ]
        # None of nothing: what never matches takes as long as what may, and code can be megabytes.
        self.patterns = [(kind, re.compile(either, re.IGNORECASE)) for kind, either in known if either]

    @classmethod
    def of(cls, trial: Trial) -> Scrubber:
        """Of one run, and of whoever shares it."""
        environment = os.environ
        folders = [str(trial.folder), str(trial.runs_dir), os.getcwd(), str(Path.home()), str(options.HOUSE.parent)]
        folders += [*trial.provenance.get("config_dirs", ()), tempfile.gettempdir()]
        folders += [value for name, value in environment.items() if name.startswith("LATHE_") and value.startswith("/")]
        secrets = [value for name, value in environment.items() if looks_secret(name, value)]
        return cls(_users(), _hosts(trial), folders, secrets)

    def text(self, value: str) -> str:
        """A text with what may not go out replaced by what kind of thing it was, and without invisible characters."""
        kept, end = list[str](), 0
        for finding in sorted(self.findings(value), key=lambda finding: (finding.start, -finding.end)):
            if finding.start >= end:
                kept += [value[end : finding.start], PLACEHOLDERS[finding.kind]]
            end = max(end, finding.end)
        return "".join(character for character in "".join([*kept, value[end:]]) if not is_deceptive(character))

    def findings(self, text: str) -> list[Finding]:
        """Everything in a text that may not go out, by what it is known to be or by how it looks."""
        looks = [("folder", PATHS), ("address", ADDRESSES), ("host", PRIVATE_HOSTS)]
        return [*self.known(text), *_found(text, looks)]

    def in_bytes(self, content: bytes) -> list[Finding]:
        """What is certain in what is no text, where the shortest words stand by chance."""
        every = (found for text in readings(content) for found in self.known(text))
        return [found for found in every if found.end - found.start >= LONG]

    def known(self, text: str) -> list[Finding]:
        """Of these what is certain: in code, paths and addresses may be anyone's."""
        return _found(text, [*self.patterns, ("secret", SECRET_VALUES), ("secret", SECRET_LINES)])


def readings(content: bytes) -> Iterator[str]:
    """The texts that bytes can be: of the encoding that they are in, which is not always said."""
    if content.startswith(UTF_16):
        yield content.decode("utf-16", errors="replace")
        return
    try:
        texts = [content.decode()]
    except UnicodeDecodeError:
        texts = [content.decode("latin1"), content.decode(errors="replace")]
    yield from texts
    if b"\0" in content:  # of two bytes a letter, and nothing says so
        yield from (text.replace("\0", "") for text in texts)


def _found(text: str, patterns: Iterable[tuple[str, re.Pattern[str]]]) -> list[Finding]:
    return [Finding(kind, *match.span()) for kind, pattern in patterns for match in pattern.finditer(text)]


def _words(names: Iterable[str]) -> str:
    """What finds these as whole words, the longest first; "" where there are none."""
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return rf"(?<![A-Za-z0-9])(?:{either})(?![A-Za-z0-9])" if either else ""


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """The words of the house's own configurations, such as ``max`` and ``adam``: as names they tell nothing."""
    words = set[str]()
    for path in options.HOUSE.rglob("*.yaml"):
        lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        words |= {word.lower() for word in re.findall(r"[A-Za-z]+", path.stem + " " + " ".join(lines))}
    return frozenset(words)


def _users() -> Iterator[str]:
    """Names of whoever runs this process: of the account, and the person's own."""
    yield from (os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER"))
    yield Path.home().name
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:  # a container's user may have no name
        return
    yield from (account.pw_name, account.pw_gecos.partition(",")[0], getpass.getuser())


def _hosts(trial: Trial) -> Iterator[str]:
    """Machines of this process, of a run's attempts and of its store."""
    yield from (socket.gethostname(), socket.getfqdn(), str(trial.provenance.get("host", "")))
    yield from (os.environ.get(name, "") for name in HOST_VARIABLES)
    yield from (event["host"] for event in journal.replay(trial.folder) if event["event"] == "state")
    stores = [os.environ.get("MLFLOW_TRACKING_URI"), (trial.config.get("tracking") or {}).get("store")]
    for store in stores:
        try:
            yield urlsplit(resolve(store) or "").hostname or ""
        except (KeyError, ValueError):  # a variable that is not set here, or no address
            continue
