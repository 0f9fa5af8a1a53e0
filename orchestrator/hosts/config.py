"""How a host is reached by SSH: `~/.ssh/config`, and what OpenSSH does where it is silent.

Source: ssh_config(5), OpenSSH 9. The parser is paramiko's; `Include`, which it does not know, is put in before.
`StrictHostKeyChecking` is not read: host keys are always checked.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko.config
import paramiko.ssh_exception

from orchestrator.errors import BadUsage
from orchestrator.hosts.known import SSH_PORT, known_name

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Source: ssh_config(5), IdentityFile, without the kinds that need a security key, which paramiko does not speak to.
KEY_FILES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
CONNECT_S = 10.0
#: Source: ssh_config(5), Include: nesting ends at 16.
DEPTH = 16
#: Jumps of jumps.
MOST_HOPS = 8

# Names reach shells in ProxyCommand. Source: CVE-2023-51385, after which OpenSSH refuses shell characters in them.
_HOST = re.compile(r"[A-Za-z0-9_:%.\[\]-]+")
_USER = re.compile(r"[A-Za-z0-9_.@\\$+-]+")
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:/]+)(?::(?P<port>\d+))?/?")


@dataclass(frozen=True, slots=True)
class Hop:
    """One SSH server on the way to a host.

    Attributes:
        alias: How the operator or the cluster calls it.
        address: What is connected to.
        key_name: How known_hosts calls it.
        key_files: Private keys to try, those that there are.
        agent: The agent's socket; "" for none.
        identities_only: Of the agent's keys, only those that are also in `key_files`.
        known_files: known_hosts files; new keys go into the first one.
        hash_names: New names are hashed there.
        proxy_command: Makes the connection; "" for a socket of our own.
        connect_s: How long that may take.
    """

    alias: str
    address: str
    port: int
    user: str
    key_name: str
    key_files: tuple[Path, ...]
    agent: str
    identities_only: bool
    known_files: tuple[Path, ...]
    hash_names: bool
    proxy_command: str
    connect_s: float

    def __str__(self) -> str:
        where = self.address if self.port == SSH_PORT else f"{self.address}:{self.port}"
        return f"{self.user}@{where}"


#: The way to a host: its jumps in order, then itself.
Route = tuple[Hop, ...]


class _Config(paramiko.config.SSHConfig):  # type: ignore[misc]
    """Lets a stanza match a host by its name or by its address: `Host 10.0.*` is meant for nodes, too."""

    also = ""

    def _pattern_matches(self, patterns: Any, target: str) -> bool:
        matches: bool = super()._pattern_matches(patterns, target)
        return matches or bool(self.also and super()._pattern_matches(patterns, self.also))


class SshConfig:
    """The settings of one user.

    Args:
        user_file: Usually `~/.ssh/config`; need not exist.
        system_file: What holds where that says nothing.
    """

    def __init__(
        self, user_file: Path = Path("~/.ssh/config"), system_file: Path | None = Path("/etc/ssh/ssh_config")
    ) -> None:
        lines = [*_lines(user_file.expanduser(), str(user_file), 0)]
        if system_file is not None:
            lines += ["Host *", *_lines(system_file, str(system_file), 0)]
        self._text = "\n".join(lines)
        try:
            self._parsed = _Config.from_text(self._text)
        except paramiko.ssh_exception.ConfigParseError as err:
            raise BadUsage(
                f"{user_file}: {err}", remedy=f"repair it: `ssh -G localhost` has to read {user_file}"
            ) from err

    def route(self, alias: str, address: str = "", user: str = "", port: int = 0) -> Route:
        """The way to a host.

        Args:
            alias: Its name.
            address: Where it is, unless HostName says otherwise.
            user: Who logs in, whatever the settings say; "" leaves it to them.
            port: Likewise; 0 leaves it to them.

        Raises:
            BadUsage: A setting cannot be meant.
        """
        return self._route(alias, address, user, port, 0)

    def _route(self, alias: str, address: str, user: str, port: int, depth: int) -> Route:
        if depth >= MOST_HOPS:
            raise BadUsage(
                f"{alias}: ProxyJump goes over more than {MOST_HOPS} hosts, or in a circle",
                remedy="repair ~/.ssh/config",
            )
        settings = self._settings(alias, address)
        target = _hop(settings, alias, address, user, port)
        jump = settings.get("proxyjump") or "none"
        if jump.lower() == "none":
            return (target,)
        words = [_jump(word) for word in jump.split(",")]
        # As ssh does it: the first jump is reached as its own settings say, each later one through those before it.
        first, *later = words
        way = self._route(first[0], "", first[1], first[2], depth + 1)
        way += tuple(_hop(self._settings(name, ""), name, "", u, p) for name, u, p in later)
        return (*way, target)

    def _settings(self, alias: str, address: str) -> dict[str, Any]:
        config = _Config()
        config._config, config.also = self._parsed._config, address  # noqa: SLF001  there is no way to copy one
        try:
            found = dict(config.lookup(alias))
        except (paramiko.ssh_exception.SSHException, paramiko.ssh_exception.CouldNotCanonicalize) as err:
            raise BadUsage(f"{alias}: ~/.ssh/config: {err}", remedy=f"`ssh -G {alias}` has to read it") from err
        return found


def _hop(settings: dict[str, Any], alias: str, address: str, user: str, port: int) -> Hop:
    named: str = settings["hostname"]
    host = address if named == alias and address else named
    chosen_user = user or settings.get("user") or getpass.getuser()
    chosen_port = port or _number(settings, "port", SSH_PORT, alias)
    for text, pattern in ((host, _HOST), (alias, _HOST), (chosen_user, _USER)):
        if not pattern.fullmatch(text) or text.startswith("-"):
            raise BadUsage(f"{text!r} is no name of a host or a user", remedy=f"look at {alias} in ~/.ssh/config")
    host = host.strip("[]")
    key_files = settings.get("identityfile") or list(KEY_FILES)
    known = f"{settings.get('userknownhostsfile', USER_KNOWN_HOSTS)}"
    system = f"{settings.get('globalknownhostsfile', GLOBAL_KNOWN_HOSTS)}"
    return Hop(
        alias=alias,
        address=host,
        port=chosen_port,
        user=chosen_user,
        key_name=(settings.get("hostkeyalias") or "").lower() or known_name(host, chosen_port),
        key_files=tuple(p for f in key_files if f.lower() != "none" and (p := _path(f)).exists()),
        agent=_agent(settings.get("identityagent", "")),
        identities_only=settings.get("identitiesonly", "no").lower() == "yes",
        known_files=tuple(_path(f) for f in f"{known} {system}".split() if f.lower() != "none"),
        hash_names=settings.get("hashknownhosts", "no").lower() == "yes",
        proxy_command=_proxy_command(settings, alias),
        connect_s=float(_number(settings, "connecttimeout", CONNECT_S, alias)),
    )


def _proxy_command(settings: dict[str, Any], alias: str) -> str:
    """The command with all that ssh puts into it. Source: ssh_config(5), TOKENS: `%n` is the name as it was given."""
    command = settings.get("proxycommand") or ""
    return command.replace("%n", alias).replace("%%", "%")


def _number(settings: dict[str, Any], key: str, default: float, alias: str) -> int:
    text = str(settings.get(key, int(default)))
    if not text.isdigit() or (key == "port" and not 0 < int(text) < 65536):
        raise BadUsage(f"{alias}: {key} {text} in ~/.ssh/config is not a number that can be meant", remedy="repair it")
    return int(text)


def _agent(setting: str) -> str:
    """The agent's socket. Source: ssh_config(5), IdentityAgent: `none`, `SSH_AUTH_SOCK`, `$NAME`, or a path."""
    if setting.lower() == "none":
        return ""
    if not setting or setting == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    return os.environ.get(setting[1:], "") if setting.startswith("$") else str(_path(setting))


def _jump(word: str) -> tuple[str, str, int]:
    match = _JUMP.fullmatch(word.strip())
    if not match:
        raise BadUsage(f"ProxyJump {word!r} is not [user@]host[:port]", remedy="repair it in ~/.ssh/config")
    return match["host"].strip("[]"), match["user"] or "", int(match["port"] or 0)


def _path(text: str) -> Path:
    home = str(Path.home())
    return Path(text.strip('"').replace("%d", home)).expanduser()


def _lines(path: Path, where: str, depth: int) -> Iterator[str]:
    """The lines of a file with those of the files that it includes in their place.

    Source: ssh_config(5), Include: globs; a relative path is below `~/.ssh`, or `/etc/ssh` for the system's.
    """
    try:
        text = path.read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as err:
        raise BadUsage(f"{path} cannot be read: {err.strerror}", remedy=f"chown or chmod {path}") from err
    if depth >= DEPTH:
        raise BadUsage(f"{where} includes files {DEPTH} deep, or itself", remedy=f"repair {path}")
    block = "Host *"
    for line in text.splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include":
            yield line
            continue
        for name in (n for part in rest.split() for n in sorted(glob.glob(_beside(part.strip('"'), path)))):  # noqa: PTH207
            included = [*_lines(Path(name), name, depth + 1)]
            if block.split()[1:] != ["*"] and any(re.match(r"\s*(host|match)\b", i, re.IGNORECASE) for i in included):
                raise BadUsage(
                    f"{where}: `{line.strip()}` stands below `{block.strip()}`, and {name} has blocks of its own",
                    remedy=f"move the Include to the top of {path}",
                )
            yield from included
            yield block


def _beside(name: str, path: Path) -> str:
    found = Path(name).expanduser()
    return str(found if found.is_absolute() else path.parent / found)
