#!/usr/bin/env bash
# A real Slurm on the two nodes of tools/nodes.sh, for tests/end_to_end/test_slurm.py; as root.
#
#   tools/slurm_testbed.sh up      then: export SLURM_CONF=DIR/slurm.conf, as it says
#   tools/slurm_testbed.sh down    ends it and removes all that it made
#
# DIR is ${GPT2DIST_SLURM_TESTBED:-/tmp/gpt2dist-slurm}; a second one also needs a name of its own in GPT2DIST_NODES.
# Nodes n1 and n2 have two cores and two pretended GPUs each; a job in the partition `urgent` preempts those in
# `train`, which get 20 seconds to save.
set -Eeuo pipefail

home=${GPT2DIST_SLURM_TESTBED:-/tmp/gpt2dist-slurm}
host=$(hostname -s)
nodes=$(dirname "$0")/nodes.sh
export SLURM_CONF=$home/slurm.conf
fail() { echo "slurm_testbed.sh: $*" >&2; exit 2; }

require() {
  [ "$(id -u)" = 0 ] || fail "needs root, for namespaces"
  local program missing=""
  for program in slurmctld slurmd munged sinfo ip; do
    command -v "$program" >/dev/null || missing+=" $program"
  done
  [ -z "$missing" ] || fail "missing:$missing; on Debian or Ubuntu:
  apt-get update && apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2"
  [ ! -e "$home" ] || fail "$home is there already; take it down first: tools/slurm_testbed.sh down"
}

write_configuration() {
  local address=$1 net=${1%.*}
  mkdir -p "$home"/{state,spool.n1,spool.n2,log,munge}
  chmod 700 "$home/munge"
  touch "$home"/gpu{0,1} # stand for devices
  echo "Name=gpu File=$home/gpu[0-1]" >"$home/gres.conf"
  cat >"$SLURM_CONF" <<END
ClusterName=gpt2dist
SlurmctldHost=$host($address)
SlurmctldPort=$((16000 + ${net##*.}))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/munge.sock
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool.%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
SlurmdTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
GresTypes=gpu
NodeName=n1 NodeAddr=$net.11 Port=17001 CPUs=2 RealMemory=4000 Gres=gpu:2
NodeName=n2 NodeAddr=$net.12 Port=17001 CPUs=2 RealMemory=4000 Gres=gpu:2
PartitionName=train Nodes=n[1-2] Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n[1-2] MaxTime=60 PriorityTier=10 PreemptMode=OFF
END
}

up() {
  require
  "$nodes" up
  trap 'down; fail "it did not come up"' ERR
  write_configuration "$("$nodes" join)"
  (umask 077 && head -c 1024 /dev/urandom >"$home/munge/munge.key")
  munged --force --key-file="$home/munge/munge.key" --socket="$home/munge/munge.sock" \
    --pid-file="$home/munge/munged.pid" --log-file="$home/munge/munged.log" --seed-file="$home/munge/seed" 2>/dev/null
  slurmctld -f "$SLURM_CONF"
  "$nodes" on 1 slurmd -f "$SLURM_CONF" -N n1
  "$nodes" on 2 slurmd -f "$SLURM_CONF" -N n2
  local tries
  for tries in {1..100}; do
    [ "$(sinfo --noheader --partition=train --states=idle --format=%D 2>/dev/null)" != 2 ] || break
    [ "$tries" != 100 ] || fail "its nodes did not become idle; see $home/log, then: tools/slurm_testbed.sh down"
    sleep 0.1
  done
  sinfo
  echo "export SLURM_CONF=$SLURM_CONF"
}

# Ends a daemon by its file, and waits until it has ended.
end() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

down() {
  trap - ERR
  if [ -e "$home/slurmctld.pid" ] && scancel --user=root 2>/dev/null; then
    for _ in {1..250}; do # jobs get KillWait to end
      [ -n "$(squeue --noheader 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  local pid
  for pid in slurmctld.pid slurmd.n1.pid slurmd.n2.pid munge/munged.pid; do end "$home/$pid"; done
  "$nodes" down
  rm -rf "$home"
}

case ${1:-} in
  up | down) "$1" ;;
  *) fail "write up or down" ;;
esac
