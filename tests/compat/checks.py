"""What the Python scripts share: where the gateway is, and running every check whatever became of the others."""

import os
import sys
import time
import traceback

URL = os.environ["SPILLWAY_URL"]
MODEL = os.environ["SPILLWAY_MODEL"]
# What the model cannot do yet, by a word in the checks' names.
WITHOUT = os.environ.get("SPILLWAY_WITHOUT", "").split()
CHECKS = []


def check(function):
    if any(word in function.__name__ for word in WITHOUT):
        print(f"left out {function.__name__}")
    else:
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
