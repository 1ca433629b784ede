#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, to try the way to a cluster at home: controller, node and munge.
#   sudo bash workflow/slurm/one-node.sh start              (packages of Debian and Ubuntu: slurm-wlm, munge)
#   sudo bash workflow/slurm/one-node.sh start accounting   (slurmdbd, mariadb-server as well)
#   sudo bash workflow/slurm/one-node.sh stop
# Everything lives in /var/tmp/one-node, but for the configuration: jobs look for it in /etc/slurm. One that is there
# already is somebody else's, and nothing is done then.
set -euo pipefail
home=/var/tmp/one-node
conf=/etc/slurm/slurm.conf
dbd_conf=/etc/slurm/slurmdbd.conf
mark="# a cluster of one node, by workflow/slurm/one-node.sh"
unset SLURM_CONF

# A database and its daemon, as clusters have them that keep account of jobs.
accounting() {
  mkdir -p "$home/database"
  chown mysql "$home/database"
  mariadb-install-db --no-defaults --user=mysql --datadir="$home/database" >"$home/database.log" 2>&1
  setsid mariadbd --no-defaults --user=mysql --datadir="$home/database" --socket="$home/database/socket" --port=16820 \
    --bind-address=127.0.0.1 --pid-file="$home/database/mariadbd.pid" >>"$home/database.log" 2>&1 &
  for _ in $(seq 60); do [ -S "$home/database/socket" ] && break; sleep 1; done
  mariadb --no-defaults --socket="$home/database/socket" -e \
    "create user if not exists slurm@'127.0.0.1' identified by 'slurm'; grant all on slurm.* to slurm@'127.0.0.1'"
  cat >$dbd_conf <<CONF
$mark
DbdHost=localhost
DbdPort=16819
SlurmUser=root
AuthType=auth/munge
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=16820
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile=$home/slurmdbd.log
PidFile=$home/slurmdbd.pid
CONF
  chmod 600 $dbd_conf
  slurmdbd
  for _ in $(seq 60); do (: </dev/tcp/127.0.0.1/16819) 2>/dev/null && break; sleep 1; done
}

case "${1:-}" in
start)
  for file in $conf $dbd_conf; do
    if [ -e $file ] && ! grep -qxF "$mark" $file; then
      echo "$file: this machine has a SLURM already; use that one" >&2
      exit 1
    fi
  done
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
  account=none
  [ "${2:-}" != accounting ] || account=slurmdbd
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
AccountingStorageType=accounting_storage/$account
AccountingStoragePort=16819
ReturnToService=2
MailProg=/bin/true
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 512)) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  [ -e /etc/slurm/cgroup.conf ] || echo "CgroupAutomount=no" >/etc/slurm/cgroup.conf
  [ $account = none ] || accounting
  slurmctld
  slurmd
  for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated' && break; sleep 1; done
  sinfo
  ;;
stop)
  for part in slurmd slurmctld slurmdbd database/mariadbd; do
    [ ! -e "$home/$part.pid" ] || kill "$(cat "$home/$part.pid")" || true
  done
  for file in $conf $dbd_conf; do ! grep -qxF "$mark" $file 2>/dev/null || rm $file; done
  ;;
*)
  echo "usage: $0 start [accounting] | stop" >&2
  exit 2
  ;;
esac
