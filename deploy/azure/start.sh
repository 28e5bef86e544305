#!/usr/bin/env bash
# What a container of the host does: `loop`, `web` or `labeling`; `home` only writes the Dagster home and ends.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
part=${1:?one of: loop, web, labeling, home}

al init "$DAGSTER_HOME"
if ! grep --quiet '^storage:' "$DAGSTER_HOME/dagster.yaml"; then
    cat "$here/storage.yaml" >> "$DAGSTER_HOME/dagster.yaml" # runs and events outlive the container
fi
cp "$here/workspace.yaml" "$DAGSTER_HOME/workspace.yaml"
cd "$DAGSTER_HOME"

case $part in
    home) ;;
    web) exec dagster-webserver --host 0.0.0.0 --port 3000 --workspace workspace.yaml ;;
    labeling) exec al label ;;
    loop)
        # Whichever ends first ends the container, which is started anew; both are told when it is stopped.
        dagster code-server start --module-name al_assets.definitions --host 0.0.0.0 --port 4000 \
            --location-name active_learning &
        code=$!
        CODE_LOCATION_HOST=127.0.0.1 dagster-daemon run --workspace workspace.yaml &
        daemon=$!
        trap 'kill -TERM $daemon $code 2>/dev/null || true' TERM INT
        wait -n || true
        kill -TERM $daemon $code 2>/dev/null || true
        wait
        exit 1
        ;;
    *)
        echo "$part is not a part of the host; expected loop, web, labeling or home" >&2
        exit 2
        ;;
esac
