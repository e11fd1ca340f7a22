"""A person at a terminal, for tests: runs a command in a pseudo-terminal of its own and follows a list of steps.

    person.py STEPS.json COMMAND...

STEPS.json is a list of lists:
    ["expect", TEXT]          waits until TEXT has been written since the last expect (escape sequences count as nothing)
    ["raw", TEXT]             the same, in the bytes as they came
    ["type", TEXT]            types it
    ["insist", TEXT, WANTED]  types TEXT again and again, until WANTED is seen
    ["resize", ROWS, COLS]    gives the terminal another size; 0 0 = a terminal that says none
    ["answer", ASKED, TEXT]   as a terminal would: from now on TEXT is typed whenever ASKED is written
    ["quiet"]                 waits until what was typed is all read and nothing more is written for a moment
    ["signal", NAME]          sends the command a signal
    ["hang up"]               takes the terminal away; the last step but "run"
    ["run", COMMAND, CODE]    runs a shell command beside the terminal; its end must be CODE
    ["end", CODE]             waits for the end of the command
    ["never", TEXT]           TEXT was not written, in the bytes as they came, since the beginning

The terminal has the size PTY_SIZE (24x80). Waits for events, for at most PTY_PATIENCE seconds each (60). Ends with 0 if all came true; else it says which step did not, and
shows the screen. The modes of the terminal are compared before and after: they must be the same. What was written is printed as
JSON at the end.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

PATIENCE = float(os.environ.get("PTY_PATIENCE", "60"))
SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


class Person:
    def __init__(self, command):
        self.master, slave = pty.openpty()
        self.size(*(int(side) for side in os.environ.get("PTY_SIZE", "24x80").split("x")))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=self.lead)
        self.seen = b""      # everything
        self.mark = 0        # where the last expect ended
        self.answers = []

    def lead(self):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def size(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read(self, seconds):
        """Reads what is there, waiting for it for so long. Tells whether something came."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        at = len(self.seen)
        self.seen += data
        for asked, text in self.answers:
            for _ in range(self.seen[max(0, at - len(asked) + 1):].count(asked)):
                self.type(text)
        return True

    def type(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        deadline = time.monotonic() + PATIENCE
        while data:
            readable, writable, _ = select.select([self.master], [self.master], [], 1)
            if readable:
                self.read(0)
            if writable:
                data = data[os.write(self.master, data[:512]):]
            if time.monotonic() > deadline:
                self.fail("what is typed is not taken")

    def until(self, what, enough):
        deadline = time.monotonic() + PATIENCE
        while not enough():
            ended = self.child.poll() is not None
            came = self.read(0.05)
            if ended and not came and not enough():
                self.fail(f"{what}: the command has ended with {self.child.returncode}")
            if time.monotonic() > deadline:
                self.fail(f"{what}: not within {PATIENCE} s")

    def find(self, wanted, raw):
        """Looks for text since the mark and moves the mark behind it."""
        text = self.seen[self.mark:]
        if raw:
            at = text.find(wanted)
            if at < 0:
                return False
            self.mark += at + len(wanted)
            return True
        # Without the sequences, and back to a place among them.
        plain, places, last = b"", [], 0
        for found in SEQUENCE.finditer(text):
            plain += text[last:found.start()]
            places += range(last, found.start())
            last = found.end()
        plain += text[last:]
        places += range(last, len(text))
        at = plain.find(wanted)
        if at < 0:
            return False
        self.mark += places[at + len(wanted) - 1] + 1
        return True

    def fail(self, why):
        print(f"step {self.step}: {why}", file=sys.stderr)
        print(f"--- since the last expect:\n{self.seen[self.mark:]!r}\n--- all, its end:\n{self.seen[-4000:]!r}", file=sys.stderr)
        self.child.kill()
        sys.exit(1)

    def do(self, name, *args):
        if name in ("expect", "raw"):
            self.until(f"no {args[0]!r}", lambda: self.find(args[0].encode(), name == "raw"))
        elif name == "type":
            self.type(args[0])
        elif name == "insist":
            deadline = time.monotonic() + PATIENCE
            while True:
                self.type(args[0])
                again = time.monotonic() + 1
                while time.monotonic() < again:
                    self.read(0.05)
                    if self.find(args[1].encode(), False):
                        return
                if time.monotonic() > deadline:
                    self.fail(f"no {args[1]!r} however often {args[0]!r} is typed")
        elif name == "resize":
            self.size(*args)
        elif name == "answer":
            self.answers.append((args[0].encode(), args[1]))
        elif name == "signal":
            self.child.send_signal(getattr(signal, args[0]))
        elif name == "hang up":
            os.close(self.slave)
            os.close(self.master)
            self.child.wait(PATIENCE)
        elif name == "quiet":
            last = time.monotonic()
            while time.monotonic() - last < 1:
                if self.read(0.1):
                    last = time.monotonic()
        elif name == "run":
            done = subprocess.run(["/bin/sh", "-c", args[0]], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
            if done.returncode != args[1]:
                self.fail(f"{args[0]!r} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}")
        elif name == "end":
            deadline = time.monotonic() + PATIENCE
            while self.child.poll() is None:
                self.read(0.05)
                if time.monotonic() > deadline:
                    self.fail("it does not end")
            while self.read(0.05):
                pass
            if self.child.returncode != args[0]:
                self.fail(f"it ended with {self.child.returncode}, not {args[0]}")
            after = termios.tcgetattr(self.slave)
            if after != self.before:
                self.fail(f"the terminal was {self.before} and is {after}")
        elif name == "never":
            if args[0].encode() in self.seen:
                self.fail(f"{args[0]!r} was written")
        else:
            self.fail("no such step")


def main():
    steps = json.load(open(sys.argv[1]))
    person = Person(sys.argv[2:])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for person.step in steps:
        person.do(*person.step)
    if person.child.poll() is None:
        person.child.kill()
    print(json.dumps(person.seen.decode("utf-8", "replace")))


main()
