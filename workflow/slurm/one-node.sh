#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, to try the way to a cluster at home: controller, node and munge.
#   sudo bash workflow/slurm/one-node.sh start    (packages of Debian and Ubuntu: slurm-wlm, munge)
#   sudo bash workflow/slurm/one-node.sh stop
# Everything lives in /var/tmp/one-node, but for the configuration: jobs look for it in /etc/slurm. One that is there
# already is somebody else's, and nothing is done then.
set -euo pipefail
home=/var/tmp/one-node
conf=/etc/slurm/slurm.conf
mark="# a cluster of one node, by workflow/slurm/one-node.sh"
unset SLURM_CONF
case "${1:-}" in
start)
  if [ -e $conf ] && ! grep -qxF "$mark" $conf; then
    echo "$conf: this machine has a SLURM already; use that one" >&2
    exit 1
  fi
  mkdir -p /etc/slurm "$home/state" "$home/spool" /run/munge
  chown munge /run/munge
  if [ ! -s /etc/munge/munge.key ]; then
    dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none
    chown munge /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
  fi
  munge --no-input >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged
  # Memory is watched every two seconds, and a job that takes more than it asked for is ended. Nodes of real clusters
  # have control groups for it.
  cat >$conf <<CONF
$mark
ClusterName=one-node
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
KillWait=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
AccountingStorageType=accounting_storage/none
ReturnToService=2
MailProg=/bin/true
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 512)) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  [ -e /etc/slurm/cgroup.conf ] || echo "CgroupAutomount=no" >/etc/slurm/cgroup.conf
  slurmctld
  slurmd
  for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated' && break; sleep 1; done
  sinfo
  ;;
stop)
  for part in slurmd slurmctld; do [ ! -e "$home/$part.pid" ] || kill "$(cat "$home/$part.pid")" || true; done
  ! grep -qxF "$mark" $conf 2>/dev/null || rm $conf
  ;;
*)
  echo "usage: $0 start | stop" >&2
  exit 2
  ;;
esac
