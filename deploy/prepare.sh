# What a build needs, for the scripts that source this: system packages, Rust, a compiler cache, one target directory.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# missing COMMAND PACKAGE: names the package if the command is not there.
missing() { command -v "$1" >/dev/null 2>&1 || printf '%s ' "$2"; }

# install PACKAGE...: from Debian's archive, as root or through sudo.
install() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "Please install: $*"
  local as=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "Please install (there is no sudo to do it): $*"
    as=(sudo)
  fi
  say "Installing $* ..."
  local log; log=$(mktemp)
  # A machine that never updated its lists finds no packages, so the second try updates them.
  if ! "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@" >"$log" 2>&1 &&
     ! { "${as[@]}" apt-get update -q && "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"; } >"$log" 2>&1
  then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "Could not install: $*"
  fi
  rm -f "$log"
}

# Everything for `cargo build`, and the environment that all builds share: another would build RocksDB again. With the
# profile that is built.
prepare_build() {
  local packages profile=${1:-release}
  packages=$(missing clang clang; missing protoc protobuf-compiler; missing make make; missing g++ g++
             missing pkg-config pkg-config; missing ccache ccache)
  # Its headers and its library, which bindgen loads while it builds.
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || [ -n "${LIBCLANG_PATH:-}" ] || packages+=libclang-dev
  # shellcheck disable=SC2086 # a list of words
  install $packages

  command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
  command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs (1.91 or later)"
  if command -v ccache >/dev/null; then
    export CC=${CC:-ccache cc} CXX=${CXX:-ccache c++}
  fi
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/warren-target}
  if ! compgen -G "$CARGO_TARGET_DIR/$profile/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
    say "The first build compiles RocksDB, which takes about ten minutes on two cores; later ones find it in $CARGO_TARGET_DIR/$profile."
  fi
}

# The programs as they are to be run: $CARGO_TARGET_DIR/dist has them then.
build_programs() {
  prepare_build dist
  say "Building ..."
  (cd "$TOP" && cargo build --profile dist --locked -p warren-broker --bins)
}
