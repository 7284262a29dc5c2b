#!/usr/bin/env bash
# Builds the server of InfluxDB 1.8.10 once, for the tests of the bench's store, and prints its path.
#
# Debian's 1.6.7 has no /api/v2. 1.8.10 comes from the Go module proxy, through a temporary module in the
# user's cache, not in the checkout. Needs go; about 3 minutes and 400 MB the first time.
set -euo pipefail

version=1.8.10
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gridhe/influxd-$version
binary=$cache/influxd

if [ ! -x "$binary" ]; then
    command -v go >/dev/null || { echo "go is not installed (Debian, Ubuntu: apt install golang-go)" >&2; exit 1; }
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    cat > go.mod <<MOD
module gridhe.invalid/influxd

go 1.17

require github.com/influxdata/influxdb v$version
MOD
    cat > tools.go <<'GO'
//go:build tools

package tools

import _ "github.com/influxdata/influxdb/cmd/influxd"
GO
    GOFLAGS=-mod=mod go mod tidy >&2
    GOFLAGS=-mod=mod go build -o influxd github.com/influxdata/influxdb/cmd/influxd >&2
    # Atomic, also if two builds run at the same time.
    mv influxd "$binary"
fi
echo "$binary"
