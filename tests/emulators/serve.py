"""Storage and Data Explorer, emulated, for as long as somebody holds standard input open.

`python tests/emulators/serve.py` prints one line of JSON: their addresses, or why they cannot be had.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from emulators.azurite import Azurite
from emulators.kusto import KustoEmulator
from emulators.node_packages import NotInstalled


def main() -> int:
    try:
        with Azurite.start() as storage, KustoEmulator(storage=storage) as database:
            addresses = {"kusto": database.url, "blob": storage.blob_url, "queue": storage.queue_url}
            print(json.dumps(addresses), flush=True)
            sys.stdin.read()  # ends with whoever started this, however that ends
    except NotInstalled as reason:
        print(json.dumps({"missing": str(reason)}))
        return 1
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": f"{error.name} is not installed: pip install '.[azure,dev]'"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
