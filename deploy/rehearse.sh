#!/usr/bin/env bash
# Builds the image and runs every part from it, where there is no container engine: buildah (chroot isolation), bubblewrap, curl, openssl.
#
#   DATABASE_URL=postgresql://... BROKER_URL=redis://... deploy/rehearse.sh [buildah options, as --build-arg BASE_IMAGE=...]
#
# With OTEL_EXPORTER_OTLP_ENDPOINT=http://..., the parts send their traces there.
# Each part has what compose gives it: the image's environment, a read-only root, a /tmp in memory, uid 10001, no capability, no new
# privileges, to be process 1, and a host name of its own. The database has to be empty and is left as it ends; it takes about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DATABASE_URL:?of an empty PostgreSQL database}" "${BROKER_URL:?of a Redis}"
PORT=${PORT:-18410} PEPPER=$(openssl rand -hex 32)

step() { printf '\n== %s\n' "$*"; }
wait_for() { for _ in $(seq 120); do if "$@" > /dev/null 2>&1; then return; fi; sleep 0.5; done; echo "waited in vain: $*" >&2; exit 1; }
engram() { # HOST-NAME ARGUMENTS...
  local name=$1; shift
  exec bwrap --ro-bind "$root" / --perms 1777 --tmpfs /tmp --proc /proc --dev /dev --chdir /data --die-with-parent --as-pid-1 \
    --unshare-pid --unshare-ipc --unshare-uts --hostname "$name" --cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP \
    --clearenv "${environment[@]}" --setenv ENGRAM_DATABASE_URL "$DATABASE_URL" --setenv ENGRAM_BROKER_URL "$BROKER_URL" \
    --setenv ENGRAM_KEY_PEPPER "$PEPPER" --setenv ENGRAM_PORT "$PORT" \
    -- setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --inh-caps=-all --bounding-set=-all -- engram "$@"
}
run() { (engram "$@"); }
call() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $key" "$@"; }

step build
buildah bud --isolation chroot --format docker --layers --tag engram:rehearsal "$@" .
container=$(buildah from --pull-never localhost/engram:rehearsal)
root=$(buildah mount "$container")
outer=()
stop() { for pid in "${outer[@]}"; do pkill -TERM -P "$pid" || true; done; wait; buildah rm "$container" > /dev/null; }
trap stop EXIT
config() { buildah inspect --format "$1" "$container"; }
user=$(config '{{.Docker.Config.User}}')
environment=()
if [ -n "${OTEL_EXPORTER_OTLP_ENDPOINT:-}" ]; then environment+=(--setenv OTEL_EXPORTER_OTLP_ENDPOINT "$OTEL_EXPORTER_OTLP_ENDPOINT"); fi
while IFS= read -r line; do environment+=(--setenv "${line%%=*}" "${line#*=}"); done < <(config '{{range .Docker.Config.Env}}{{println .}}{{end}}' | grep .)

step "migrate, twice; no key, no API; nothing is alive yet"
run one-off migrate
run one-off migrate
if run one-off api; then echo "the API served strangers" >&2; exit 1; fi
if run one-off alive api || run one-off alive worker; then echo "what is not there is said to be alive" >&2; exit 1; fi
key=$(run one-off keys create rehearsal --scopes admin)

step "api, worker, scheduler"
for part in api "worker --queues cpu" scheduler; do
  # shellcheck disable=SC2086  # the words of a command
  (engram "${part%% *}-1" $part) & outer+=($!)
done
wait_for curl --silent --fail "http://127.0.0.1:$PORT/health/ready"
wait_for run api-1 alive api
wait_for run worker-1 alive worker
wait_for run scheduler-1 alive scheduler
curl --silent "http://127.0.0.1:$PORT/health/ready"; echo

step "data, training, forecast"
base=http://127.0.0.1:$PORT/v1
call -X POST "$base/datasets/air/observations" -H 'Content-Type: text/csv' --data-binary @examples/air_passengers.csv; echo
call -X POST "$base/models/air/trainings" -H 'Content-Type: application/json' -d '{"dataset": "air", "horizon": 12}' | cut -c1-90
trained() { call "$base/trainings?model=air&status=succeeded" | grep -q '"version":1'; }
wait_for trained
call -X POST "$base/models/air/forecasts" -H 'Content-Type: application/json' -d '{}' | cut -c1-300; echo

step "SIGTERM to each as process 1"
for pid in "${outer[@]}"; do
  pkill -TERM -P "$pid"
  started=$(date +%s%N) code=0
  wait "$pid" || code=$?
  echo "exit code $code after $((($(date +%s%N) - started) / 1000000)) ms"
  [ "$code" = 0 ]
done
outer=()
step "every part works"
