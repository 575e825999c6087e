"""The forms of secrets: tokens of well-known services, keys, signed addresses, and lines that assign a password.

The formats of services follow the plugins of detect-secrets 1.5.0 (github.com/Yelp/detect-secrets, Apache 2.0) and the rules of
gitleaks (github.com/gitleaks/gitleaks, MIT). Every repetition is bounded, because some files are one long line.
"""

from __future__ import annotations

import re

TOKENS = (
    r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\bAKC[a-zA-Z0-9]{10,}",  # Artifactory
    r"\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=[\w+/=%&.-]{20,200}",  # Azure
    r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}",  # Google
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}",
    r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct)-[\w.-]{16,}",  # GitLab
    r"\bxox[a-z](?:\.xox[a-z])?-[\w-]{10,}|\bxapp-\d-[\w-]{10,}",  # Slack
    r"\bhooks\.slack\.com/(?:services|workflows|triggers)/[\w/-]{8,}",
    r"\bdiscord(?:app)?\.com/api/webhooks/[\w/-]{8,}|\b[\w.-]{1,80}webhook\.office\.com/[\w/@-]{8,}",
    r"\b(?=[\w.-]{0,60}\d)[MNO][a-zA-Z\d_-]{23,25}\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27}",  # Discord
    r"\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}",  # Hugging Face
    r"\bsk-(?=[\w-]{0,200}\d)[A-Za-z0-9_-]{20,}|\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",  # OpenAI, Anthropic; Stripe
    r"\bnpm_[A-Za-z0-9]{20,}|:_authToken=[^\s$]{8,}|\bpypi-Ag[A-Za-z0-9_-]{20,}|\bdckr_pat_[\w-]{20,}",
    r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\b[0-9a-f]{32}-us\d{1,2}\b|\bsq0[a-z]{3}-[\w-]{20,}",  # SendGrid, Mailchimp, Square
    r"\b\d{8,10}:AA[\w-]{33}\b",  # Telegram
    r"\bdapi[0-9a-f]{32}\b|\bdo[opr]_v1_[a-f0-9]{64}\b",  # Databricks, DigitalOcean
    r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b",  # Shopify
    r"\bglsa_\w{20,}|\bglc_[\w+/=]{20,}|\blin_api_\w{20,}|\bntn_\w{20,}|\bhv[sbr]\.[\w-]{20,}|\br8_\w{20,}|\bpul-[0-9a-f]{40}\b",
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}",  # JSON web token
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|PuTTY-User-Key-File-\d|\bAGE-SECRET-KEY-1\w{20,}",
    r"(?i:\bbearer )(?=\S{0,200}\d)[\w.~+/=-]{12,}|(?i:\bauthorization: ?basic )[\w+/=]{6,}",
    # Signed and other addresses that hold a key.
    r"[?&](?i:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig|(?:access_|auth_|api_|private_)?token|(?:api_?)?key"
    r"|subscription-key|password|passwd|pwd|secret|client_secret|auth|AWSAccessKeyId)=[^&\s\"'${]{8,}",
    r"\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,100}:[^\s/@]{1,200}@",  # user and password
    r"\bhttps?://[\w-]{20,200}@",  # a token as the user
)
SECRET_VALUES = re.compile("|".join(TOKENS))

# Lines of `.pgpass`, `.netrc` and `kaggle.json`.
CREDENTIAL_FILE_LINES = (
    r"^[\w.*-]{1,100}:(?:\d{1,5}|\*):[\w.*-]{1,100}:[\w.*@-]{1,100}:[^\s:]{1,200}[ \t]*$"
    r"|\b(?:login|account)\s{1,40}\S{1,200}\s{1,40}password\s{1,40}\S{1,200}"
    r"|\"key\"\s{0,8}:\s{0,8}\"[0-9a-f]{32}\""
)
# A line of a file that assigns a secret: `api_key: 0123...`, `PASSWORD = "..."`, but no call and no reference.
ASSIGNMENTS = (
    r"(?:password|passwd|passphrase|secret|api_?key|access_?key|private_?key|account_?key|credential|webhook|(?:auth|access|api"
    r"|bearer|refresh|session|personal|deploy|bot|hf|gh|github|gitlab|slack|tracking|wandb|openai|npm|pypi)_?token)"
    r"\w{0,30}[\"']?[ \t]{0,8}[:=][ \t]{0,8}"
    r"(?:([\"'])[^\"'\s${]{8,200}\1|(?=\S{0,200}\d)[A-Za-z0-9+/_\-]{12,200}={0,2}[ \t]*$)"
)
SECRET_LINES = re.compile(f"{ASSIGNMENTS}|{CREDENTIAL_FILE_LINES}", re.IGNORECASE | re.MULTILINE)

# In a text for people even a short password is one: "the password is hunter2", `PGPASSWORD=abc12`, `--token abc12`.
# The group is the secret itself.
_BETWEEN = r"[\"']?(?:\s{0,4}[:=]\s{0,4}|\s{1,4}is\s{1,4})[\"']?"
SECRET_PHRASES = re.compile(
    r"(?:password|passwd|passphrase|passwort|pwd|pgpass|secret|credentials?|cookie|dsn|webhook(?:_url)?)"
    rf"{_BETWEEN}(?!\*\*\*|\$\{{)([^\s\"']{{0,199}}[^\s\"'.,;:!?)\]])"
    r"|(?:token|(?:api|access|private|secret|account|license)[_ -]?key|\bkey|auth)"
    rf"{_BETWEEN}(?=[^\s\"']{{0,200}}\d)(?=[^\s\"']{{0,200}}[A-Za-z])([^\s\"'${{<]{{5,200}})"
    r"|(?:password|passwd|pwd|token|api[_ -]?key|secret)\s{1,4}(?=\S{0,200}\d)(?=\S{0,200}[A-Za-z])([^\s\"'${<]{5,200})",
    re.IGNORECASE,
)

CREDENTIAL_FILES = re.compile(
    r"(?:^|/)(?:\.env(?:\..*)?|.*\.env|\.?netrc|_netrc|\.pgpass|pgpass\.conf|\.my\.cnf|\.pypirc|\.npmrc|\.git-credentials|\.htpasswd"
    r"|\.dockercfg|\.docker/config\.json|\.s3cfg|\.boto|\.mlflow/credentials|kaggle\.json|credentials(?:\..*)?|secrets?\.(?:ya?ml|json|toml|ini|env|txt)"
    r"|client_secrets?.*\.json|service[_-]account.*\.json|application_default_credentials\.json|id_(?:rsa|dsa|ecdsa|ed25519)(?!.*\.pub$).*"
    r"|.*\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|ovpn|tfstate))$",
    re.IGNORECASE,
)
"""Paths of files that exist to hold a secret."""
