"""The files of a throw-away SLURM cluster, as pure functions of what was asked for and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "rehearsal"
QOS = "high"
ADDRESS = "127.0.77."
LONGEST_SOCKET = 107
"""Characters in the path of a socket; the kernel takes 108 with the closing zero."""


@dataclass(frozen=True)
class Spec:
    """The shape of a cluster."""

    nodes: int = 4
    gpus: int = 4
    """Simulated, of each node."""
    gpu_type: str = "h100"
    cpus: int = 8
    """Declared, of each node, whatever this machine has."""
    memory_gb: int = 64
    """Declared, of each node."""
    accounting: bool = False
    """With a database, so that `sacct`, accounts and QOS are a real site's."""

    def __str__(self) -> str:
        gpus = f", {self.gpus} simulated {self.gpu_type}" if self.gpus else ""
        accounts = ", with accounting" if self.accounting else ""
        return f"{self.nodes} nodes of {self.cpus} CPUs, {self.memory_gb} GB{gpus}{accounts}"


@dataclass(frozen=True)
class ClusterFolder:
    """Where a cluster lies, and what makes it different from another one on this machine."""

    folder: Path
    host: str
    """This machine's short name."""
    user: str
    port: int
    """The first of `num_ports`, all of them free."""
    first_job: int
    """Numbers of jobs must not come again: results in the folder of an earlier job would be taken for those of a new one."""


def node_names(spec: Spec) -> list[str]:
    """Loopback addresses, which resolve everywhere, so that ranks meet at a node's name without root and /etc/hosts."""
    return [f"{ADDRESS}{number}" for number in range(1, spec.nodes + 1)]


def num_ports(spec: Spec) -> int:
    """One for the controller, one for each node, one for the accounts."""
    return spec.nodes + 2


def longest_socket(folder: Path, spec: Spec) -> str:
    """Path of the longest socket: that of a batch step on the last node, with the longest number of a job."""
    node = node_names(spec)[-1]
    return f"{folder}/spool/{node}/{node}_67043328.4294967291"


def files(spec: Spec, place: ClusterFolder) -> dict[str, str]:
    """Text of every file, by its path in the folder."""
    found = {
        "etc/slurm.conf": slurm_conf(spec, place),
        "etc/gres.conf": gres_conf(spec, place),
        "env.sh": env_sh(place),
    }
    if spec.accounting:
        return found | {"etc/slurmdbd.conf": slurmdbd_conf(spec, place)}
    return found | {"bin/sacct": SACCT}


def slurm_conf(spec: Spec, place: ClusterFolder) -> str:
    return "\n".join([*_cluster(place), *_scheduling(place), *_accounting(spec, place), *_nodes(spec, place), ""])


def _cluster(place: ClusterFolder) -> list[str]:
    folder = place.folder
    return [
        "ClusterName=rehearsal",
        f"SlurmctldHost={place.host}(127.0.0.1)",
        f"SlurmctldPort={place.port}",
        f"SlurmUser={place.user}",
        f"SlurmdUser={place.user}",
        "AuthType=auth/munge",
        # It is also how long a requeued job waits before it starts again: 120 s by default.
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
        # More CPUs and memory than this machine has may be declared, and no cgroups are needed to end a job.
        "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "ReturnToService=2",
        "SlurmdTimeout=20",  # 300 s by default, before a silent node is taken for lost
        "KillWait=5",
        "GresTypes=gpu",
    ]


def _scheduling(place: ClusterFolder) -> list[str]:
    return [
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=1024",  # without it a job takes all the memory, hence the node
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",  # releases that have it in PreemptParameters take this name too
        "EnforcePartLimits=ALL",  # else jobs that can never run wait for ever
        "SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=5",
        "MaxArraySize=10001",
        f"FirstJobId={place.first_job}",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "JobAcctGatherParams=OverMemoryKill",  # limits of memory without cgroups, looked at every 2 s
    ]


def _accounting(spec: Spec, place: ClusterFolder) -> list[str]:
    if not spec.accounting:
        return []
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=localhost",
        f"AccountingStoragePort={place.port + spec.nodes + 1}",
        f"AccountingStoragePass={place.folder}/munge.sock",  # sacct and sacctmgr do not read AuthInfo
        "AccountingStorageEnforce=associations,limits,qos",
        "AccountingStorageTRES=gres/gpu",
    ]


def _nodes(spec: Spec, place: ClusterFolder) -> list[str]:
    has = f"CPUs={spec.cpus} RealMemory={spec.memory_gb * 1024}"
    if spec.gpus:
        has += f" Gres=gpu:{spec.gpu_type}:{spec.gpus} Feature={spec.gpu_type}"
    nodes = [
        f"NodeName={name} NodeAddr={name} NodeHostname={place.host} Port={place.port + number} {has} State=UNKNOWN"
        for number, name in enumerate(node_names(spec), 1)
    ]
    limits = "Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP"
    return [
        *nodes,
        f"PartitionName=main {limits} Default=YES PriorityTier=1 GraceTime=10",
        f"PartitionName=high {limits} PriorityTier=10 PreemptMode=OFF",
    ]


def gres_conf(spec: Spec, place: ClusterFolder) -> str:
    """GPUs as links to /dev/null: slurmd wants devices. The flag leaves variables of other makes unset."""
    if not spec.gpus:
        return ""
    last = f"[0-{spec.gpus - 1}]" if spec.gpus > 1 else "0"
    return f"Name=gpu Type={spec.gpu_type} File={place.folder}/dev/nvidia{last} Flags=nvidia_gpu_env\n"


def slurmdbd_conf(spec: Spec, place: ClusterFolder) -> str:
    """Where the database's socket is, slurmdbd is told by the variable MYSQL_UNIX_PORT alone."""
    folder = place.folder
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.sock",
        "DbdHost=localhost",
        f"DbdPort={place.port + spec.nodes + 1}",
        f"SlurmUser={place.user}",
        "StorageType=accounting_storage/mysql",
        f"StorageUser={place.user}",
        "StorageLoc=accounts",
        f"LogFile={folder}/log/slurmdbd.log",
        f"PidFile={folder}/slurmdbd.pid",
    ]
    return "\n".join([*lines, ""])


def accounts(place: ClusterFolder) -> str:
    """What `sacctmgr` is told once: an account and a second QOS, so that wrong names are refused as on a real site."""
    return "\n".join(
        [
            "add cluster rehearsal",
            f"add account {ACCOUNT} Description=rehearsal Organization=rehearsal",
            f"add qos {QOS} Priority=1000",
            f"add user {place.user} Account={ACCOUNT} QOS=normal,{QOS} DefaultQOS=normal",
            f"modify user where name={place.user} set DefaultAccount={ACCOUNT}",  # root has another one already
            "",
        ]
    )


def env_sh(place: ClusterFolder) -> str:
    """What a shell sources to talk to the cluster, as often as it likes."""
    folder = place.folder
    return (
        f"export SLURM_CONF={folder}/etc/slurm.conf\n"
        f'case ":$PATH:" in *":{folder}/bin:"*) ;; *) export PATH="{folder}/bin:$PATH" ;; esac\n'
    )


SACCT = """#!/bin/sh
# There are no accounts: of jobs the controller knows for 5 minutes after their end, `sacct -o JobID,State,NodeList -P`.
echo 'JobID|State|NodeList'
exec squeue -h -a -t all -o '%i|%T|%N'
"""
