"""Renders the files of a local SLURM cluster from its shape and its installation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "lathe"
QOS = "high"
ADDRESS = "127.0.77."
LONGEST_SOCKET = 107
"""Maximum length of a socket's path; the kernel allows 108 characters with the closing zero."""


@dataclass(frozen=True)
class ClusterSpec:
    """The shape of a cluster."""

    nodes: int = 4
    gpus: int = 4
    """Simulated GPUs of each node."""
    gpu_type: str = "h100"
    cpus: int = 8
    """Declared for each node; may be more than this machine has."""
    memory_gb: int = 64
    """Declared for each node."""
    accounting: bool = False
    """Run the accounting database, so `sacct`, accounts and QOS work as on a real site."""

    def __str__(self) -> str:
        gpus = f", {self.gpus} simulated {self.gpu_type}" if self.gpus else ""
        accounts = ", with accounting" if self.accounting else ""
        return f"{self.nodes} nodes of {self.cpus} CPUs, {self.memory_gb} GB{gpus}{accounts}"


@dataclass(frozen=True)
class Installation:
    """What distinguishes one cluster from another on this machine."""

    folder: Path
    host: str
    """This machine's short name."""
    user: str
    port: int
    """The first of `count_ports` consecutive free ports."""
    first_job: int
    """Job numbers must not repeat: results of an earlier job would be taken for those of a new job."""


def list_nodes(spec: ClusterSpec) -> list[str]:
    """Return loopback addresses as node names: they resolve everywhere, without root or /etc/hosts."""
    return [f"{ADDRESS}{number}" for number in range(1, spec.nodes + 1)]


def count_ports(spec: ClusterSpec) -> int:
    """One port for the controller, one for each node, one for the accounting daemon."""
    return spec.nodes + 2


def find_longest_socket(folder: Path, spec: ClusterSpec) -> str:
    """Return the longest path of a socket: that of a batch step on the last node with the longest job number."""
    node = list_nodes(spec)[-1]
    return f"{folder}/spool/{node}/{node}_67043328.4294967291"


def render_files(spec: ClusterSpec, installation: Installation) -> dict[str, str]:
    """Return the text of every file, by its path in the folder."""
    texts = {
        "etc/slurm.conf": render_slurm_conf(spec, installation),
        "etc/gres.conf": render_gres_conf(spec, installation),
        "env.sh": render_env_sh(installation),
    }
    if spec.accounting:
        return texts | {"etc/slurmdbd.conf": render_slurmdbd_conf(spec, installation)}
    return texts | {"bin/sacct": SACCT}


def render_slurm_conf(spec: ClusterSpec, installation: Installation) -> str:
    sections = [
        _render_cluster(installation),
        _render_scheduling(installation),
        _render_accounting(spec, installation),
        _render_nodes(spec, installation),
    ]
    return "".join(f"{line}\n" for section in sections for line in section)


def _render_cluster(installation: Installation) -> list[str]:
    folder = installation.folder
    return [
        f"ClusterName={ACCOUNT}",
        f"SlurmctldHost={installation.host}(127.0.0.1)",
        f"SlurmctldPort={installation.port}",
        f"SlurmUser={installation.user}",
        f"SlurmdUser={installation.user}",
        "AuthType=auth/munge",
        # Also how long a requeued job waits before it restarts; the default is 120 s.
        f"AuthInfo=socket={folder}/munge.sock,cred_expire=5",
        "CredType=cred/munge",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        "MailProg=/bin/true",
        "MpiDefault=none",
        # Nodes may declare more CPUs and memory than this machine has, and SLURM ends jobs without cgroups.
        "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "ReturnToService=2",
        "SlurmdTimeout=20",  # the default before a silent node counts as down is 300 s
        "KillWait=5",
        "GresTypes=gpu",
    ]


def _render_scheduling(installation: Installation) -> list[str]:
    return [
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=1024",  # without it a job takes all the memory, and so the whole node
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",  # newer releases moved it to PreemptParameters but still accept it here
        "EnforcePartLimits=ALL",  # refuse jobs that can never run
        "SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=5",
        "MaxArraySize=10001",
        f"FirstJobId={installation.first_job}",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "JobAcctGatherParams=OverMemoryKill",  # memory limits without cgroups, checked every 2 s
    ]


def _render_accounting(spec: ClusterSpec, installation: Installation) -> list[str]:
    if not spec.accounting:
        return []
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=localhost",
        f"AccountingStoragePort={installation.port + spec.nodes + 1}",
        f"AccountingStoragePass={installation.folder}/munge.sock",  # sacct and sacctmgr do not read AuthInfo
        "AccountingStorageEnforce=associations,limits,qos",
        "AccountingStorageTRES=gres/gpu",
    ]


def _render_nodes(spec: ClusterSpec, installation: Installation) -> list[str]:
    resources = f"CPUs={spec.cpus} RealMemory={spec.memory_gb * 1024}"
    if spec.gpus:
        resources += f" Gres=gpu:{spec.gpu_type}:{spec.gpus} Feature={spec.gpu_type}"
    nodes = [
        f"NodeName={name} NodeAddr={name} NodeHostname={installation.host} Port={installation.port + number} "
        f"{resources} State=UNKNOWN"
        for number, name in enumerate(list_nodes(spec), 1)
    ]
    limits = "Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP"
    return [
        *nodes,
        f"PartitionName=main {limits} Default=YES PriorityTier=1 GraceTime=10",
        f"PartitionName=high {limits} PriorityTier=10 PreemptMode=OFF",
    ]


def render_gres_conf(spec: ClusterSpec, installation: Installation) -> str:
    """Declare GPUs as links to /dev/null, as slurmd needs devices. The flag sets only NVIDIA's variables in jobs."""
    if not spec.gpus:
        return ""
    last = f"[0-{spec.gpus - 1}]" if spec.gpus > 1 else "0"
    return f"Name=gpu Type={spec.gpu_type} File={installation.folder}/dev/nvidia{last} Flags=nvidia_gpu_env\n"


def render_slurmdbd_conf(spec: ClusterSpec, installation: Installation) -> str:
    """The database's socket is not in this file: slurmdbd reads it from the variable MYSQL_UNIX_PORT."""
    folder = installation.folder
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.sock",
        "DbdHost=localhost",
        f"DbdPort={installation.port + spec.nodes + 1}",
        f"SlurmUser={installation.user}",
        "StorageType=accounting_storage/mysql",
        f"StorageUser={installation.user}",
        "StorageLoc=accounts",
        f"LogFile={folder}/log/slurmdbd.log",
        f"PidFile={folder}/slurmdbd.pid",
    ]
    return "\n".join([*lines, ""])


def render_accounts(installation: Installation) -> str:
    """Commands for `sacctmgr`: an account and a second QOS, so wrong names are refused as on a real site."""
    return "\n".join(
        [
            f"add cluster {ACCOUNT}",
            f"add account {ACCOUNT} Description={ACCOUNT} Organization={ACCOUNT}",
            f"add qos {QOS} Priority=1000",
            f"add user {installation.user} Account={ACCOUNT} QOS=normal,{QOS} DefaultQOS=normal",
            f"modify user where name={installation.user} set DefaultAccount={ACCOUNT}",  # root has another one
            "",
        ]
    )


def render_env_sh(installation: Installation) -> str:
    """A script that a shell sources to use the cluster; it may be sourced repeatedly."""
    folder = installation.folder
    return (
        f"export SLURM_CONF={folder}/etc/slurm.conf\n"
        f'case ":$PATH:" in *":{folder}/bin:"*) ;; *) export PATH="{folder}/bin:$PATH" ;; esac\n'
    )


SACCT = """#!/bin/sh
# Without accounting: the jobs that the controller knows, up to 5 minutes after their end, as `sacct -o JobID,State,NodeList -P`.
echo 'JobID|State|NodeList'
exec squeue -h -a -t all -o '%i|%T|%N'
"""
