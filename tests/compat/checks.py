"""What the Python scripts share: where the gateway is, and running every check whatever became of the others."""

import os
import sys
import time
import traceback

URL = os.environ["SPILLWAY_URL"]
MODEL = os.environ["SPILLWAY_MODEL"]
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
