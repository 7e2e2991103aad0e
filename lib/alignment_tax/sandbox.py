"""A process for functions that nobody vouches for, on Linux: no network, limits, one end for all.

Its answers are plain JSON, so nothing it writes is run here; it can read what this account can.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

Texts = Sequence[str]
LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # options of prctl
#: Audited events that start or signal a process, reach for another machine, and change files.
STARTS = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.", "os.kill")
REACHES = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethost")
CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.truncate", "os.mkdir", "os.chmod", "shutil.rm")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Limits:
    """What one process may take; megabytes of memory beyond what it shares with its parent."""

    seconds: float = 10.0
    memory: int = 1024
    output: int = 10  # megabytes printed, and of each file
    processes: int = 32


class Ended(Exception):
    """Raised when the process is gone; the message says how."""


def encode(value: Any, arguments: Sequence[Any] = ()) -> Any:
    """Return JSON that stands for an answer (TypeError: there is none); arguments go by place."""
    for place, given in enumerate(arguments):
        alike = isinstance(value, torch.Tensor) and isinstance(given, torch.Tensor)
        if alike and value.shape == given.shape and value.data_ptr() == given.data_ptr():
            return {"argument": place}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(name), encode(each)] for name, each in value.items()]}
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": value.tolist(), "kind": kind, "grad": value.requires_grad}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"array": value.tolist(), "kind": str(value.dtype)}
    raise TypeError(f"it cannot be compared: {type(value).__name__}")


def decode(said: Any, arguments: Sequence[Any] = ()) -> Any:
    """Return the value that JSON of `encode` stands for."""
    if isinstance(said, list):
        return [decode(each) for each in said]
    if not isinstance(said, dict):
        return said
    if "argument" in said:
        return arguments[said["argument"]]
    if "tuple" in said:
        return tuple(decode(each) for each in said["tuple"])
    if "dict" in said:
        return {decode(name): decode(each) for name, each in said["dict"]}
    if not re.fullmatch(r"bool|u?int\d+|b?float\d+", said["kind"]):
        raise ValueError("no numbers")
    if "array" in said:
        return np.array(said["array"], dtype=said["kind"])
    made = torch.tensor(said["tensor"], dtype=getattr(torch, said["kind"]))
    return made.requires_grad_() if said["grad"] else made


def write_back(given: Any, after: Any) -> None:
    """Do to an argument here what the call did to its copy."""
    if isinstance(given, dict) and isinstance(after, dict):
        for name in given.keys() & after.keys():
            write_back(given[name], after[name])
    elif isinstance(given, torch.Tensor) and not torch.equal(given, after):
        given.data.copy_(after)
    elif isinstance(given, np.ndarray) and not np.array_equal(given, after):
        given[...] = after


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """The process: runs code, then answers calls of what that code has defined."""

    def __init__(
        self, code: Texts, wanted: Texts, names: dict[str, Any], folder: Path, limits: Limits
    ) -> None:
        """Start it; `folder` (absolute, its to write to) becomes its current and home folder."""
        self.limits, self.ended, self.buffer = limits, "", b""
        self.deadline = time.monotonic() + limits.seconds
        self.printed = folder.with_name(f"{folder.name}.printed")
        LIBC.prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
        self.others = psutil.Process().children()
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(0.05)  # seconds between two looks at what it does
        self.base = psutil.Process().memory_info()
        self.pid = os.fork()
        if not self.pid:
            try:
                theirs = enter(theirs, folder, self.printed, limits, self.base.vms)
                serve(theirs, code, wanted, names)
            finally:
                os._exit(0)
        theirs.close()

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.socket.close()

    def start(self) -> tuple[bool, dict[str, Any]]:
        """Return whether it has a network of its own, with nothing in it, and what it defined."""
        apart, ready = self.read(), self.read()
        if "error" in ready:
            self.end(ready["error"])
        functions = {name: partial(self.call, name) for name in ready["functions"]}
        return apart is True, functions | decode(ready["values"])

    def call(self, name: str, *arguments: Any) -> Any:
        """Return what a function answers; what it raises is raised under the same name."""
        if not self.ended:
            sent = json.dumps({"call": name, "arguments": [encode(each) for each in arguments]})
            with contextlib.suppress(OSError):  # it is gone: reading says how
                self.socket.sendall(sent.encode() + b"\n")
        said = self.read()
        try:
            if "error" in said:
                kind, text = (str(part)[:300] for part in said["error"])
                raise type(kind, (Exception,), {})(text)
            for given, after in zip(arguments, said["arguments"], strict=True):
                write_back(given, decode(after))
            return decode(said["answer"], arguments)
        except (AttributeError, KeyError, TypeError, IndexError, ValueError, RuntimeError):
            return self.end("it sends what is no answer")

    def read(self) -> Any:
        """Return the next line from it (Ended: it is gone, or takes too much)."""
        while not self.ended:
            line, whole, rest = self.buffer.partition(b"\n")
            if whole:
                self.buffer = rest
                with contextlib.suppress(ValueError, RecursionError):
                    return json.loads(line)
                self.end("it sends what is no answer")
            if time.monotonic() > self.deadline:
                self.end(f"it does not end within {self.limits.seconds:g} seconds")
            if len(self.buffer) > 5 * 2**20:  # bytes of JSON
                self.end("its answer is too long")
            try:
                if not (more := self.socket.recv(2**16)):
                    self.end(self.status())
                self.buffer += more
            except TimeoutError:
                self.watch()
        raise Ended(self.ended)

    def watch(self) -> None:
        """End it if it or its brood is over a limit."""
        if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
            self.end(self.status())
        brood, extra = psutil.Process(self.pid).children(recursive=True), 0
        for process in brood:
            with contextlib.suppress(psutil.Error):
                extra += max(process.memory_info().rss - self.base.rss, 0)
        if len(brood) > self.limits.processes:
            self.end(f"it starts more than {self.limits.processes} processes")
        if extra > 2**20 * self.limits.memory:
            self.end(f"it takes more than {self.limits.memory} MB of memory")

    def status(self) -> str:
        """Return how the process ended by itself."""
        code = psutil.Process(self.pid).wait(5) or 0
        by = f"signal {code - 128}" if code > 128 else f"exit status {code}"
        return f"it ends its own process ({by})"

    def end(self, why: str) -> Any:
        """Kill it, and raise why; so does every later call."""
        self.kill()
        self.ended = why
        raise Ended(why)

    def kill(self) -> None:
        """Kill it and all that it has started, also what has left its group."""
        while own := [p for p in psutil.Process().children() if p not in self.others]:
            for process in own:
                with contextlib.suppress(psutil.Error):
                    own += process.children(recursive=True)
                    process.kill()
            psutil.wait_procs(own, timeout=1)


def enter(
    theirs: socket.socket, folder: Path, printed: Path, limits: Limits, shared: int
) -> socket.socket:
    """Fence in the forked process; only the innermost one returns, with its end of the socket."""
    os.setsid()
    user, group = os.getuid(), os.getgid()
    apart = LIBC.unshare(NEW_USER | NEW_PROCESSES | NEW_NETWORK) == 0
    if apart:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if inner := os.fork():  # with the first process of a namespace all others in it die
        theirs.close()
        code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
        os.dup2(file, number)
    os.dup2(theirs.fileno(), 3)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    most = {"AS": shared + 2**20 * limits.memory, "FSIZE": 2**20 * limits.output, "CORE": 0}
    for name, size in most.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (size, size))
    os.chdir(folder)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, HOME=str(folder), TMPDIR=str(folder), ALIGNMENT_TAX_RUNS=str(folder))
    theirs.detach()
    own = socket.socket(fileno=3)
    own.sendall(json.dumps(apart).encode() + b"\n")
    sys.dont_write_bytecode = True
    sys.addaudithook(partial(refuse, os.path.realpath(folder)))  # cannot be taken back
    return own


def refuse(folder: str, event: str, given: tuple[Any, ...]) -> None:
    """Let Python start no process, reach no other machine and change no file outside a folder."""
    if event.startswith(STARTS):
        raise PermissionError(f"no process may be started or ended here ({event})")
    if event.startswith(REACHES):
        raise PermissionError(f"there is no network here ({event})")
    changes = event.startswith(CHANGES) or (event == "open" and given[2] & WRITES)
    if changes and not isinstance(given[0], int) and given[0] != os.devnull:
        place = os.path.realpath(os.fsdecode(given[0]))
        if not f"{place}/".startswith(f"{folder}/"):
            raise PermissionError(f"nothing may be changed outside its folder ({place})")


def serve(theirs: socket.socket, code: Texts, wanted: Texts, names: dict[str, Any]) -> None:
    """Run code, whose faults count only if what is wanted of it is missing; then answer calls."""

    def say(what: dict[str, Any]) -> None:
        theirs.sendall(json.dumps(what).encode() + b"\n")

    fault = ""
    for part in code:
        try:
            exec(part, names)
        except BaseException as error:
            fault = fault or f"it stops with {type(error).__name__}: {error}"[:300]
    if missing := [name for name in wanted if name not in names]:
        say({"error": fault or f"nothing is called {missing[0]}"})
        return
    functions = [name for name in wanted if callable(names[name])]
    try:
        values = encode({name: names[name] for name in wanted if name not in functions})
        say({"functions": functions, "values": values})
    except TypeError as error:
        say({"error": str(error)})
    for asked in map(json.loads, theirs.makefile("r", encoding="utf-8")):
        arguments = [decode(each) for each in asked["arguments"]]
        try:
            answer = encode(names[asked["call"]](*arguments), arguments)
            say({"answer": answer, "arguments": [encode(each) for each in arguments]})
        except BaseException as error:
            say({"error": [type(error).__name__, str(error)]})
