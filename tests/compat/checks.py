"""What the Python scripts share: where the gateway is, and running every check whatever became of the others."""

import os
import sys
import time
import traceback
from typing import Literal, get_args

URL = os.environ["SPILLWAY_URL"]
MODEL = os.environ["SPILLWAY_MODEL"]
# A small model would fill a free text with whatever comes to it; it chooses.
CITIES = Literal["Bern", "Oslo"] if os.environ.get("SPILLWAY_SMALL") else str
CITY = {"type": "string"} | ({"enum": list(get_args(CITIES))} if get_args(CITIES) else {})
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def run():
    failed = 0
    for function in CHECKS:
        began = time.monotonic()
        try:
            function()
            word = "ok"
        except Exception:
            failed += 1
            word = "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"{word} {function.__name__} ({time.monotonic() - began:.2f} s)", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} passed")
    sys.exit(1 if failed or not CHECKS else 0)
