# What the scripts share: sourced, not run. Sets $root and $py; makes the project's own virtual environment.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\033[1m» %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_packages NAME...: Debian packages that must be there; installed when root, else named.
need_packages() {
  local missing=() name
  command -v dpkg-query >/dev/null || { check_programs; return; }
  for name in "$@"; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" != 0 ]; then
    die "missing packages; install them with: sudo apt-get install -y ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# Not Debian or Ubuntu: the programs must be there, wherever they come from.
check_programs() {
  local name
  for name in bwrap nft ip setpriv unshare mkfs.ext4 slirp4netns tar; do
    command -v "$name" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$name" >/dev/null ||
      die "the program $name is missing; install it with your system's package manager"
  done
}

find_python() {
  local name
  for name in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or newer with venv is needed; on Debian 12 or Ubuntu 24.04: sudo apt-get install -y python3 python3-venv"
}

system_packages() {
  need_packages python3 python3-venv bubblewrap nftables libnftables1 libseccomp2 iproute2 conntrack util-linux e2fsprogs slirp4netns passwd ca-certificates tar "$@"
}

# make_venv: .venv with exactly what uv.lock says.
make_venv() {
  py="$root/.venv/bin/python"
  if [ ! -x "$py" ] || ! "$py" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    local found
    found=$(find_python)
    say "making .venv with $found"
    rm -rf .venv
    "$found" -m venv .venv
  fi
  if [ ! -x .venv/bin/uv ]; then
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(sed -n '/^name = "uv"$/{n;s/version = "\(.*\)"/\1/p}' uv.lock)"
  fi
  if [ ! -e .venv/.synced ] || [ uv.lock -nt .venv/.synced ] || [ pyproject.toml -nt .venv/.synced ]; then
    say "installing dependencies"
    UV_PROJECT_ENVIRONMENT="$root/.venv" .venv/bin/uv sync --frozen --quiet --no-progress --python "$py"
    # Control and shards run as a user that can't write here: without its compiled modules each of their starts takes three times
    # as long. A package may hold files that are no Python of this version.
    "$py" -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
    touch .venv/.synced
  fi
  "$py" -m compileall -q src >/dev/null || true
}

# need_program PACKAGE PATH: a program that only the tests use, in .venv/bin: taken out of Debian's package without installing that, for
# then its service would run on this machine. Elsewhere it has to be on the PATH; its tests say what is missing.
need_program() {
  local name=${2##*/} folder
  [ -x ".venv/bin/$name" ] || command -v "$name" >/dev/null && return
  command -v dpkg-deb >/dev/null && command -v apt-get >/dev/null || return 0
  folder=$(mktemp -d)
  say "fetching $name"
  (
    cd "$folder"
    apt-get download -q "$1" >/dev/null 2>&1 ||
      { [ "$(id -u)" = 0 ] && apt-get update -q >/dev/null && apt-get download -q "$1" >/dev/null 2>&1; } || exit 0
    dpkg-deb --fsys-tarfile "$1"_*.deb | tar x ".$2"
  )
  [ ! -e "$folder$2" ] || install -m 0755 "$folder$2" ".venv/bin/$name"
  rm -rf "$folder"
}

# What judges /metrics and the alert rules.
need_promtool() { need_program prometheus /usr/bin/promtool; }

# What docs/howto/behind-a-reverse-proxy.md is tried with.
need_proxies() { need_program nginx /usr/sbin/nginx; need_program caddy /usr/bin/caddy; }

# A Docker daemon and gVisor, for tests: Debian's, taken out of their packages without installing them, and the runtime images on a Debian
# of debootstrap's. As root only: nobody else's daemon would do.
need_docker() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
  need_packages debootstrap debian-archive-keyring libdevmapper1.02.1
  need_program docker.io /usr/sbin/dockerd
  need_program containerd /usr/bin/containerd
  need_program containerd /usr/bin/containerd-shim-runc-v2
  need_program runc /usr/sbin/runc
  need_program tini /usr/bin/tini-static
  need_program runsc /usr/bin/runsc
  [ -e .venv/bin/docker-init ] || command -v docker-init >/dev/null || ln -s tini-static .venv/bin/docker-init
  PATH=$PATH:/usr/sbin:/sbin .venv/bin/python -m tests.dockerd
}

# need_postgres: PostgreSQL's server programs, with which tests start servers of their own. No cluster is made of the package and none is started.
need_postgres() {
  local conf=/etc/postgresql-common/createcluster.conf kept
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null && return
  command -v dpkg-query >/dev/null || return 0
  [ "$(id -u)" = 0 ] || need_packages postgresql
  need_packages postgresql-common
  kept=$(mktemp)
  cp -p "$conf" "$kept"
  printf '\ncreate_main_cluster = false\n' >>"$conf"
  (need_packages postgresql) || { cp -p "$kept" "$conf"; exit 1; }
  cp -p "$kept" "$conf"
  rm -f "$kept"
}
