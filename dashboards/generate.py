#!/usr/bin/env python3
"""Writes the dashboards beside this file and config/rules.yml. `--check` says what differs, and writes nothing.

The contents are in overview.py, gpu.py, cost.py, chaos.py and rules.py; Grafana's own notation is in grafana.py.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import content.chaos  # noqa: E402
import content.cost  # noqa: E402
import content.gpu  # noqa: E402
import content.overview  # noqa: E402
import content.rules  # noqa: E402


def files():
    for name in ("overview", "gpu", "cost", "chaos"):
        board = getattr(content, name).BOARD
        yield HERE / f"{name}.json", json.dumps(board, indent=1, ensure_ascii=False) + "\n"
    yield HERE.parent / "config" / "rules.yml", content.rules.text()


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for path, text in files():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"not what dashboards/generate.py writes: {', '.join(stale)}; run it and commit what it wrote")


if __name__ == "__main__":
    main()
