#!/usr/bin/env bash
# Runs the edge uploader in a container, with the directories mounted that its configuration names.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: start-uploader.sh CONFIG [--once] [--interval N] [--dry-run]

CONFIG is the YAML file of `lakehouse upload` (see uploader-config.yaml.example); what follows goes to that command.
A file .env beside CONFIG may hold NAME=value lines; the environment goes first.

  UPLOADER_IMAGE     the image (default: uploader-image:latest)
  UPLOADER_USER      uid:gid in the container (default: yours; the image's own where you are root)
  CONTAINER_ENGINE   docker or podman (default: the first of them that is there)
  SQLITE_HOST_DIR    the directory on this machine that holds the SQLite file, where it is not the one in CONFIG
TEXT
}

die() {
  printf 'start-uploader.sh: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  next: %s\n' "$2" >&2
  exit 1
}

# Puts the NAME=value lines of a file into the environment, unless the name is there already; runs nothing in it.
load_env() {
  local file=$1 line name value number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    line=${line#"${line%%[![:space:]]*}"}
    case $line in '' | '#'*) continue ;; esac
    line=${line#export }
    name=${line%%=*}
    if [[ $line != *=* || ! $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]]; then
      die "$file, line $number: not of the form NAME=value" "mend the line"
    fi
    value=$(unquoted "${line#*=}")
    names+=("$name")
    [ -n "${!name+set}" ] || export "$name=$value"
  done <"$file"
}

# A YAML or .env value without its quotes, its comment and the blanks around it.
unquoted() {
  local value=$1
  value=${value#"${value%%[![:space:]]*}"}
  case $value in
    '"'*) value=${value#\"} && value=${value%%\"*} ;;
    "'"*) value=${value#\'} && value=${value%%\'*} ;;
    *) value=${value%%[[:space:]]#*} ;;
  esac
  printf '%s' "${value%"${value##*[![:space:]]}"}"
}

# The value of a key at the top of the configuration, with ${NAME} and ${NAME:-default} replaced.
configured() {
  local value done='' name default
  value=$(unquoted "$(sed -n "s/^$1:[[:space:]]*//p" "$config" | head -n 1)")
  while [[ $value =~ \$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\} ]]; do
    name=${BASH_REMATCH[1]} default=${BASH_REMATCH[3]-}
    done+=${value%%"${BASH_REMATCH[0]}"*}${!name:-$default}
    value=${value#*"${BASH_REMATCH[0]}"}
  done
  printf '%s' "$done$value"
}

absolute() {
  case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac
}

find_engine() {
  local candidate
  for candidate in ${CONTAINER_ENGINE:-docker podman}; do
    if command -v "$candidate" >/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  die "no container engine is here (looked for: ${CONTAINER_ENGINE:-docker, podman})" \
    "install Docker or Podman, or run it without a container: lakehouse upload --config $config"
}

case ${1-} in
  -h | --help) usage && exit 0 ;;
  '' | -*) usage >&2 && exit 2 ;;
esac
config=$1
shift
[ -f "$config" ] && [ -r "$config" ] || die "$config: no such file, or it cannot be read" \
  "copy uploader-config.yaml.example to $config and fill it in"
config=$(absolute "$config")

names=(SQLITE_PATH TABLE_PATH STORAGE_URI STATE_DIR UPLOAD_INTERVAL ONCE SQLITE_TABLE_NAME TABLE_NAME TIMESTAMP_COL)
names+=(NODE_ID S3_BUCKET_NAME AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL)
names+=(AWS_ALLOW_HTTP DATABRICKS_HOST DATABRICKS_TOKEN)
[ ! -f "$(dirname "$config")/.env" ] || load_env "$(dirname "$config")/.env"

sqlite=${SQLITE_PATH:-$(configured sqlite)}
[ -n "$sqlite" ] || die "$config names no SQLite file" "add a line: sqlite: /path/to/sensor.db"
SQLITE_PATH=$(absolute "$sqlite")
export SQLITE_PATH
inside=$(dirname "$SQLITE_PATH")
outside=${SQLITE_HOST_DIR:-$inside}
[ -d "$outside" ] || die "the directory of the SQLite file is not on this machine: $outside" \
  "mend sqlite in $config, or name the directory that holds it here: SQLITE_HOST_DIR=DIR"
mounts=(--volume "$config:/etc/lakehouse/uploader-config.yaml:ro" --volume "$(absolute "$outside"):$inside")

table=${STORAGE_URI:-${TABLE_PATH:-$(configured storage_uri)}}
table=${table:-$(configured table_path)}
[ -n "$table" ] || die "$config names no table to fill" "add a line: table_path: s3://BUCKET/delta/sensor_readings"
case $table in
  file://*) table=${table#file://} ;;
  *://*) table='' ;;
esac
if [ -n "$table" ]; then # a table on this machine: its plans stand beside it, so the directory around both is mounted
  STORAGE_URI=$(absolute "$table")
  export STORAGE_URI
  lake=$(dirname "$STORAGE_URI")
  mkdir -p "$lake"
  [ "$lake" = "$inside" ] || mounts+=(--volume "$lake:$lake")
fi

engine=$(find_engine)
image=${UPLOADER_IMAGE:-uploader-image:latest}
here=$(dirname "$(readlink -f "$0")")
"$engine" image inspect "$image" >/dev/null 2>&1 || die "the image $image is not here" \
  "build it: $engine build -f $here/Dockerfile -t $image $(cd "$here/../../.." && pwd)"

user=${UPLOADER_USER-}
[ -n "$user" ] || [ "$(id -u)" = 0 ] || user=$(id -u):$(id -g)
options=(--rm --init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
[ -z "$user" ] || options+=(--user "$user")
if [ "$(basename "$engine")" = podman ] && [ "$(id -u)" != 0 ]; then
  options+=(--userns keep-id)
fi
for name in $(printf '%s\n' "${names[@]}" | sort -u); do # names only: values never stand in the list of processes
  [ -z "${!name-}" ] || options+=(--env "$name")
done

exec "$engine" run "${options[@]}" "${mounts[@]}" "$image" /etc/lakehouse/uploader-config.yaml "$@"
