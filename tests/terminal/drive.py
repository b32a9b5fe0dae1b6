#!/usr/bin/env python3
"""Runs a command at a terminal of its own and plays a person there.

    drive.py STEPS COMMAND ARGUMENT...

STEPS is a JSON list. {"expect": TEXT} waits until TEXT has been written after what was expected before, one blank standing for several; {"send": TEXT}
types; {"resize": [COLUMNS, ROWS]} changes the window, which makes full-screen programs draw everything anew; {"signal": [PID,
NUMBER]} is for other processes; {"end": CODE} waits for the exit with that code. Prints what was written, as JSON with what else is
to be known: whether the terminal was given back as it was. Exits 1 when a step fails."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

LIMIT = 60.0
# Programs jump over blanks that are blank already, and change colours in between.
JUMP = re.compile(r"\x1b\[[0-9]+;[0-9]+H")
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BLANKS = re.compile(r" +")


def readable(written: str) -> str:
    """As a person would read it, line by line."""
    return BLANKS.sub(" ", STYLE.sub("", JUMP.sub(" ", written)))


class Terminal:
    def __init__(self, command: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execvp(command[0], command)
        self.resize(120, 40)
        self.before = termios.tcgetattr(self.fd)
        self.written = ""
        self.met = 0
        self.code: int | None = None

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, wait: float) -> bool:
        """False: nothing more will be written."""
        ready, _, _ = select.select([self.fd], [], [], wait)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.written += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text: str) -> None:
        deadline = time.monotonic() + LIMIT
        while True:
            at = readable(self.written).find(text, self.met)
            if at >= 0:
                self.met = at + len(text)
                return
            if time.monotonic() > deadline or not self.read(0.2):
                raise AssertionError(f"never written: {text!r}")

    def send(self, text: str) -> None:
        """Once the screen stands still, as a person would: a key that comes together with a change of the window may be lost."""
        deadline = time.monotonic() + 5
        seen = -1
        while seen != len(self.written) and time.monotonic() < deadline:
            seen = len(self.written)
            self.read(0.3)
        os.write(self.fd, text.encode())

    def end(self, code: int) -> None:
        deadline = time.monotonic() + LIMIT
        after = self.before
        while self.code is None and time.monotonic() < deadline:
            try:
                after = termios.tcgetattr(self.fd)
            except termios.error:
                pass
            self.read(0.05)
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
                try:
                    after = termios.tcgetattr(self.fd)
                except termios.error:
                    pass
                while self.read(0.1) and select.select([self.fd], [], [], 0)[0]:
                    pass
        if self.code != code:
            raise AssertionError(f"ended with {self.code}, not {code}")
        if after[:4] != self.before[:4]:
            raise AssertionError("the terminal was left in another mode")


def main() -> int:
    steps, command = json.loads(sys.argv[1]), sys.argv[2:]
    terminal = Terminal(command)
    why = None
    try:
        for step in steps:
            ((name, what),) = step.items()
            if name == "signal":
                os.kill(what[0], what[1])
            elif name == "resize":
                terminal.resize(*what)
            else:
                getattr(terminal, name)(what)
    except AssertionError as error:
        why = str(error)
    if terminal.code is None:
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)
    print(json.dumps({"ok": why is None, "why": why, "code": terminal.code, "written": terminal.written}))
    return 0 if why is None else 1


sys.exit(main())
