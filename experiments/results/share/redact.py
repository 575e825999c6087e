"""What a shared run must not hold: secrets, and the names of its author, machines and folders."""

from __future__ import annotations

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
from experiments.core.secret_formats import SECRET_LINES, SECRET_PHRASES, SECRET_VALUES
from experiments.core.secrets import MIN_SECRET, find_secret_variables, resolve
from experiments.results.share.strict_yaml import is_deceptive
from experiments.run import journal
from experiments.trial.trial import Trial

GENERIC = {
    "root", "user", "admin", "ubuntu", "debian", "nobody", "runner", "guest", "home", "localhost", "localdomain",
    "linux", "host", "will", "mark", "ray", "art", "bill", "may", "june", "april", "grace", "hope", "joy", "guy", "pat",
    "chase", "miles", "page", "grant", "dean", "norm", "rob", "sue", "van", "rich", "frank", "drew", "rose", "dawn", "rand",
    "case", "day", "long", "young", "",
}  # fmt: skip
"""Names that identify no person or machine, or that are common words."""
COMMON_FOLDERS = {"", "/tmp", "/home", "/usr", "/var", "/opt", "/data", "/root", "/mnt", "/srv", "/var/tmp"}
PLACEHOLDERS = {"secret": "***", "folder": "[folder]", "host": "[host]", "user": "[user]", "address": "[address]"}
KINDS = {
    "secret": "a secret", "folder": "a folder of this machine", "host": "the name of a machine", "user": "a user's name",
    "address": "an e-mail address",
}  # fmt: skip
PATHS = re.compile(
    r"(?<![\w/.~-])(?:~[\w.-]*|file:(?://)?)?(?:/[\w.@+~=-]+){2,}/?"  # /home/me/x, ~me/data/x, file:/scratch/x, host:/a/b
    r"|/(?:home|Users)/[\w.@+~=-]+"  # after any text
    r"|(?<![\w/.-])~[\w.-]*/[\w.@+~=/-]+"  # ~/x
    r"|\b[A-Za-z]:[\\/](?!/)[^\s\"'<>|]+|\\\\[\w.-]+\\[^\s\"'<>|]+"
    r"|(?<![\w/.:-])//[\w.-]+/[^\s\"'<>|]+"  # //server/share
    r"|\b(?:s3|s3a|gs|gcs|az|abfss?|wasbs?|hdfs|webhdfs|nfs|smb|ssh|sftp|scp|dbfs|oss)://[^\s\"'<>|]+"
)
# Bounded: on a long text without spaces, unbounded repetition takes quadratic time.
ADDRESSES = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
PRIVATE_HOSTS = re.compile(
    r"\b(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})\b"
    r"|\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.(?:internal|intranet|lan|corp)\b"
    r"|(?<![\w./@-])[A-Za-z][A-Za-z-]{0,40}\d[\w-]{0,20}(?:\.[\w-]{1,63}){1,6}"  # node17.x.edu
    r"\.(?:edu|gov|mil|com|org|net|io|ai|cluster|local|hpc|ac\.[a-z]{2}|de|fr|ch|at|nl|be|it|es|pt|se|no|dk|fi|pl|cz|eu|uk|ca|us"
    r"|jp|cn|kr|in|au|nz|br)\b"
)
NODE_NAMES = re.compile(
    r"\b(?:[a-z]{2,12}[-_]?)?(?:node|gpu|login|compute|cn|nid|dgx|hpc|head|submit|rack|blade|slurm)(?:[-_][a-z]{1,6})?[-_]?\d{1,6}"
    r"(?:[-_]\d{1,4}){0,3}\b",
    re.IGNORECASE,
)
"""Usual names of the nodes of a cluster, such as gpu-node-017; replaced only in texts for people."""
HOST_VARIABLES = (
    "HOSTNAME", "HOST", "SLURMD_NODENAME", "SLURM_SUBMIT_HOST", "SLURM_CLUSTER_NAME", "SLURM_TOPOLOGY_ADDR", "MASTER_ADDR",
    "SLURM_LAUNCH_NODE_IPADDR", "PBS_O_HOST", "LSB_SUB_HOST", "SGE_O_HOST",
)  # fmt: skip
NODE_LISTS = ("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_NODELIST", "LSB_HOSTS")
CREDENTIALS = (
    ".netrc", ".pgpass", ".my.cnf", ".pypirc", ".npmrc", ".git-credentials", ".aws/credentials", ".mlflow/credentials",
    ".kaggle/kaggle.json", ".config/gh/hosts.yml", ".docker/config.json", ".huggingface/token", ".cache/huggingface/token",
)  # fmt: skip
"""Files of the home folder that hold secrets; the value of each is searched for in what is shared."""
ASSIGNMENT = re.compile(r"""["']?([\w.-]{1,100})["']?\s*[:=]\s*["']?([^"'\s,]{1,1000})""")
MAX_CREDENTIALS_BYTES = 65_536


@dataclass(frozen=True)
class Finding:
    """A part of a text that must not be shared."""

    kind: str
    start: int
    end: int


class Redactor:
    """Finds and replaces secrets and the names of users, machines and folders."""

    def __init__(
        self,
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        folders: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        """
        Args:
            users: names; common words are ignored.
            hosts: short or full names of machines; common words are ignored.
            folders: absolute paths.
            secrets: passwords and tokens, in any form.
        """
        common = GENERIC | vocabulary()
        hosts = {part for full in hosts for part in (full, full.partition(".")[0])}
        known = [
            ("user", _pattern(name for name in users if len(name) > 2 and name.lower() not in common)),
            ("host", _pattern(name for name in hosts if len(name) > 2 and name.lower() not in common)),
            ("folder", _pattern({folder.rstrip("/") for folder in folders} - COMMON_FOLDERS)),
            (
                "secret",
                "|".join(
                    _secret_pattern(secret)
                    for secret in secrets
                    if len(secret) >= MIN_SECRET and secret.lower() not in common
                ),
            ),
        ]
        certain = [(kind, re.compile(either, re.IGNORECASE)) for kind, either in known if either]
        self._certain = [*certain, ("secret", SECRET_VALUES), ("secret", SECRET_LINES)]
        self._all = [
            *self._certain, ("secret", SECRET_PHRASES), ("folder", PATHS), ("address", ADDRESSES), ("host", PRIVATE_HOSTS)
        ]  # fmt: skip

    @classmethod
    def for_run(cls, trial: Trial) -> Redactor:
        """Knows the machines of a run, and the user, folders and secrets of this process."""
        folders = [str(trial.folder), str(trial.runs_dir), os.getcwd(), str(Path.home()), str(options.CONF_DIR.parent)]
        folders += [*trial.provenance["config_dirs"], tempfile.gettempdir()]
        folders += [value for name, value in os.environ.items() if name.startswith("LATHE_") and value.startswith("/")]
        secrets = find_secret_variables(os.environ) | set(_read_credential_files(Path.home(), Path.cwd()))
        return cls(_users(), _hosts(trial), folders, sorted(secrets, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Replace everything that must not be shared by its kind, and remove invisible characters."""
        pieces, end = list[str](), 0
        for finding in sorted(
            [*self.find(text), *_find(text, [("host", NODE_NAMES)])], key=lambda finding: (finding.start, -finding.end)
        ):
            if finding.start >= end:
                pieces += [text[end : finding.start], PLACEHOLDERS[finding.kind]]
            end = max(end, finding.end)
        return "".join(character for character in "".join([*pieces, text[end:]]) if not is_deceptive(character))

    def find(self, text: str) -> list[Finding]:
        """Everything that must not be shared: known names and secrets, and what looks like a secret, path, address or host."""
        return _find(text, self._all)

    def find_known(self, text: str) -> list[Finding]:
        """Only known names and secrets: code holds paths and addresses that identify no person."""
        return _find(text, self._certain)


def _secret_pattern(secret: str) -> str:
    """A secret anywhere in a text; a short one only as a whole word."""
    return re.escape(secret) if len(secret) > 7 else rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])"


def _read_credential_files(home: Path, folder: Path) -> Iterator[str]:
    """The secrets in the user's files for them, and in the `.env` files of a folder."""
    for path in (*(home / name for name in CREDENTIALS), *sorted(folder.glob(".env*"))):
        try:
            if not path.is_file() or path.stat().st_size > MAX_CREDENTIALS_BYTES:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        words = {f"PASSWORD_{line}": match[1] for line in lines if (match := re.search(r"\bpassword\s+(\S+)", line))}
        if path.name == ".pgpass":
            words |= {f"PASSWORD_{line}": line.rpartition(":")[2] for line in lines}
        if path.name == "token":
            words |= {"TOKEN": text.strip()}
        yield from find_secret_variables({**dict(ASSIGNMENT.findall(text)), **words, **{line: line for line in lines}})


def _find(text: str, patterns: Iterable[tuple[str, re.Pattern[str]]]) -> list[Finding]:
    return [
        Finding(kind, *match.span((match.lastindex or 0) if pattern is SECRET_PHRASES else 0))
        for kind, pattern in patterns
        for match in pattern.finditer(text)
    ]


def _pattern(names: Iterable[str]) -> str:
    """A pattern for any of these names as a whole word, the longest first; "" without names."""
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return rf"(?<![A-Za-z0-9])(?:{either})(?![A-Za-z0-9])" if either else ""


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """The words of the built-in configurations, such as ``max`` and ``adam``: as user names they identify no person."""
    words = set[str]()
    for path in options.CONF_DIR.rglob("*.yaml"):
        lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        words |= {word.lower() for word in re.findall(r"[A-Za-z]+", path.stem + " " + " ".join(lines))}
    return frozenset(words)


def _users() -> Iterator[str]:
    """Names of the account that runs this process, and of the person."""
    yield from (os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER"))
    yield Path.home().name
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:  # a container's user may have no name
        return
    yield from (account.pw_name, account.pw_gecos.partition(",")[0], getpass.getuser())


def _hosts(trial: Trial) -> Iterator[str]:
    """The machines of this process, of the run's attempts and of its tracking store."""
    yield from (socket.gethostname(), socket.getfqdn(), str(trial.provenance.get("host", "")))
    yield from (os.environ.get(name, "") for name in HOST_VARIABLES)
    for name in NODE_LISTS:  # gpu[01-04],login2
        yield from re.findall(r"[A-Za-z][\w.-]*", re.sub(r"\[[^\]]*\]", "", os.environ.get(name, "")))
    yield from (event["host"] for event in journal.replay(trial.folder) if event["event"] == "state")
    for store in (os.environ.get("MLFLOW_TRACKING_URI"), (trial.config.get("tracking") or {}).get("store")):
        try:
            yield urlsplit(resolve(store) or "").hostname or ""
        except (KeyError, ValueError):  # a variable is not set here, or it is not an address
            continue
