#!/bin/bash
# namespace.sh ROOT HIDDEN KEPT TOPS COMMAND...
# Runs a command in a file tree of its own, where /dbfs, /Volumes and /Workspace (those of TOPS, parted by colons) are
# the directories of that name in ROOT, and the directories HIDDEN are empty but for what
# of KEPT is in them. Needs no rights.
set -e
if [ -z "$_IN_NAMESPACE" ]; then
  _IN_NAMESPACE=1 exec unshare --user --map-root-user --mount --propagation private bash "$0" "$@"
fi
unset _IN_NAMESPACE
root=$1 hidden=$2 kept=$3 tops=$4 cwd=$PWD path=$PATH new=$1/root
shift 4
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs tmpfs "$new"
for entry in /*; do
  name=${entry#/}
  case $name in dbfs|Volumes|Workspace) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "$new/"
  elif [ -d "$entry" ]; then mkdir "$new/$name"; mount --rbind "$entry" "$new/$name"; fi
done
IFS=:
for name in $tops; do mkdir "$new/$name"; mount --rbind "$root/$name" "$new/$name"; done
for directory in $hidden; do
  [ -d "$new$directory" ] || continue
  mount -t tmpfs -o size=64k tmpfs "$new$directory"
  for place in $kept; do
    case $place/ in "$directory"/*) mkdir -p "$new$place"; mount --rbind "$place" "$new$place" ;; esac
  done
  mount -o remount,bind,ro "$new$directory"
done
unset IFS
exec chroot "$new" /bin/bash -c 'cd "$1" && export PATH="$2" && shift 2 && exec "$@"' _ "$cwd" "$path" "$@"
