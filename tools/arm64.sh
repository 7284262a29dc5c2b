#!/usr/bin/env bash
# Checks that gridhe's meter gives the same results on 64-bit Arm as on x86. Called by `make arm64`; VENV has gridhe and uv.
#
# 1. Debian 12 for arm64 is unpacked into the user's cache, once. proot and qemu run its Python, by emulation.
# 2. The packages that requirements-dev.lock pins for arm64, and gridhe, go into out/arm64/site.
# 3. The tests of the golden vectors run there: every record is read and written with the same bytes.
# 4. gridhe-meter reads simulated P1, SML and Modbus meters there, on pseudo-terminals of this machine.
# 5. A fleet runs there and another, with the same readings, here, each against a new grid on this machine
#    (authority, Mosquitto, aggregator). Their released integers have to be equal.
#
# Needs root on Debian or Ubuntu, for debootstrap. The speed under emulation is not that of a real device.
set -euo pipefail
began=$SECONDS
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=$PWD/${VENV:-.venv}/bin
out=$PWD/out/arm64
site=$out/site
root=${XDG_CACHE_HOME:-$HOME/.cache}/gridhe/arm64-bookworm
windows=3
export PATH=$bin:$PATH:/usr/sbin

missing=()
for each in qemu-aarch64-static:qemu-user-static debootstrap:debootstrap proot:proot mosquitto:mosquitto; do
    command -v "${each%:*}" >/dev/null || missing+=("${each#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi

# The checkout has the same path inside: proot does not translate every call's paths.
emulator=(
    timeout 900 proot -q qemu-aarch64-static -r "$root" -b /dev -b /proc -b /sys -b "$PWD" -w "$out"
    /usr/bin/env -i HOME="$out" PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1
)
emulated() {
    "${emulator[@]}" "$@"
}

if [ ! -e "$root/complete" ]; then
    echo "unpacking Debian 12 for arm64 into $root"
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm "$root" \
        >"$root.log" 2>&1 || { tail -5 "$root.log" >&2; exit 1; }
    # Unpacked is enough for Python; nothing is configured.
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg --extract "$package" "$root"
    done
    rm -rf "$root"/var/cache/apt/archives "$root.log"
    touch "$root/complete"
fi

echo "installing what requirements-dev.lock pins for arm64"
rm -rf "$out"
mkdir -p "$out"
install=(uv pip install --quiet --target "$site" --python-version 3.11 --python-platform aarch64-manylinux_2_34)
"${install[@]}" --only-binary :all: --require-hashes -r requirements-dev.lock
pip wheel --quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check --wheel-dir "$out" .
"${install[@]}" --no-index --no-deps "$out"/gridhe-*.whl
emulated python3 -c 'import platform, sys, tenseal
print(f"{platform.machine()}, Python {platform.python_version()}, tenseal {tenseal.__version__}")
sys.exit(platform.machine() != "aarch64")'

echo "golden vectors"
emulated python3 -m pytest -q -p no:cacheprovider --rootdir "$PWD" -c "$PWD/pyproject.toml" "$PWD/tests/wire/test_vectors.py"

echo "meters on ports"
PYTHONPATH=tests/support python -m gridhe_testing.devices.once "${emulator[@]}" python3 "$site/bin/gridhe-meter"

pids=()
end() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    pids=()
}
trap end EXIT

# Both fleets begin with the same window, whenever the run starts.
start=$(date -u -d "$windows days ago" +%Y-%m-%d)

# Runs a grid in out/arm64/$1. The rest of the line starts gridhe-meter for its fleet.
grid() {
    local folder=$out/$1 port
    shift
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    mkdir -m 700 "$folder"
    (umask 077 && head -c 24 /dev/urandom | base64 >"$folder/passphrase")
    export GRIDHE_PASSPHRASE_FILE=$folder/passphrase GRIDHE_BROKER__URL=mqtt://127.0.0.1:$port
    {
        gridhe-keyring init --home "$folder/authority"
        gridhe-keyring enrol --home "$folder/authority" --aggregator main
        gridhe-keyring enrol --home "$folder/authority" --group north/f1 --count 8 --prefix n --fleet "$folder/fleet.json"
    } >/dev/null
    mosquitto -c "$folder/authority/broker/mosquitto.conf" 2>"$folder/mosquitto.log" &
    pids+=($!)
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        sleep 0.1
    done
    gridhe-keyring bundle --home "$folder/authority" --publish >/dev/null 2>"$folder/bundle.log"
    gridhe-aggregate --credential "$folder/authority/credentials/aggregator-main.json" \
        --state-dir "$folder/aggregator" 2>"$folder/aggregator.log" &
    pids+=($!)
    "$@" fleet --credentials "$folder/fleet.json" --state-dir "$folder/fleet" --broker "mqtt://127.0.0.1:$port" \
        --start "$start" --windows "$windows" --speed max --seed 7 --json 2>"$folder/fleet.log" |
        tee "$folder/summary.json" || { tail -5 "$folder/fleet.log" >&2; return 1; }
    gridhe-keyring release --home "$folder/authority" --out "$folder/released.jsonl" >/dev/null 2>"$folder/release.log"
    end
}

echo "a fleet here"
grid x86 timeout 900 gridhe-meter
echo "the same fleet on arm64"
grid arm64 emulated python3 "$site/bin/gridhe-meter"

python - "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])


def released(name):
    """All released records without the plan's id, which differs because each grid has its own key."""
    lines = map(json.loads, (out / name / "released.jsonl").read_text(encoding="utf-8").splitlines())
    return sorted(({**line, "plan": ""} for line in lines), key=lambda line: (line["window"], line["group"]))


here, arm = released("x86"), released("arm64")
summary = json.loads((out / "arm64" / "summary.json").read_text(encoding="utf-8"))
integers = sum(
    len(quantity["bins"]) + 3 for line in arm for interval in line["intervals"] for quantity in interval.values()
    if isinstance(quantity, dict)
)
if not arm or here != arm:
    sys.exit(f"NOT EQUAL: {len(here)} totals here, {len(arm)} from arm64; see {out}")
print(f"{summary['receipted']} batches sealed on arm64, {len(arm)} totals, {integers} released integers: equal to x86")
PYTHON
echo "$((SECONDS - began)) s"
