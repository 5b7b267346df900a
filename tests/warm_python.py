"""Start Python programs as forks of a process that has imported their libraries, which costs each of them seconds.

Only third parties' modules are imported ahead. Each program is a process of its own, a child of the test's, and imports
this project itself: it registers the plugin and patches fairseq as a user's does. So do the programs that it starts.
"""

import ctypes
import fcntl
import inspect
import io
import json
import logging
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

PR_SET_CHILD_SUBREAPER = 36
COLD = subprocess.Popen
COLD_SPAWN = multiprocessing.util.spawnv_passfds
SIGNATURE = inspect.signature(COLD._execute_child)
ABOVE, MOST_FILES = 1000, 32  # numbers that no file has which is open already
BEFORE_ANY_PROGRAM = ("PYTHONHASHSEED", "LC_ALL", "LD_PRELOAD", "TQDM_MININTERVAL")  # variables that a fork would miss


@contextmanager
def started_warm(*modules: str) -> Iterator[None]:
    """Let ``subprocess`` start Python as forks of a process that has imported ``modules``: -m, -c and scripts."""
    connection, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [sys.executable, __file__, str(theirs.fileno()), *modules]
    warm = COLD(line, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    with mock.patch("subprocess.Popen", forking(connection)):
        yield
    connection.shutdown(socket.SHUT_RDWR)  # a forgotten worker of a loader may hold the connection too
    connection.close()
    warm.wait()


def forking(connection: socket.socket) -> type[subprocess.Popen[Any]]:
    """Return a ``Popen`` whose programs are forks of the process at the other end, and children of this one."""
    # a program's parent ends at once; this process then is its parent, and can wait for it
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    class Popen(COLD):
        def _execute_child(self, *values: Any) -> None:
            given = SIGNATURE.bind(self, *values).arguments
            environment = dict(os.environ if given["env"] is None else given["env"])
            if not can_fork(given, environment):
                super()._execute_child(*values)
                return
            ends = ("p2cread", "c2pwrite", "errwrite")
            files = [own if given[end] == -1 else given[end] for own, end in enumerate(ends)]
            program = {
                "line": [os.fspath(word) for word in given["args"]][1:],
                "environment": environment,
                "folder": os.fspath(given["cwd"] or os.getcwd()),
                "new_session": given["start_new_session"],
            }
            self.pid = fork_there(connection, program, files)
            self._child_created = True
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(given[pipe] for pipe in pipes))

    return Popen


def spawning(connection: socket.socket) -> Callable[[Any, Any, Any], int]:
    """Return how ``multiprocessing`` starts a process anew, as a fork of the process at the other end."""

    def spawn(path: Any, line: Any, kept: Any) -> int:
        line = [os.fsdecode(word) for word in line]
        if line[-1] != "--multiprocessing-fork":  # the process that tracks resources, which imports next to nothing
            return COLD_SPAWN(path, line, kept)
        program = {
            "line": line[line.index("-c") :],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "new_session": False,
            "kept": list(kept),
        }
        return fork_there(connection, program, [0, 1, 2, *kept])

    return spawn


def fork_there(connection: socket.socket, program: dict[str, Any], files: list[int]) -> int:
    """Ask the process at the other end for a fork that runs a program with these files; return its number."""
    message = json.dumps(program).encode()
    socket.send_fds(connection, [len(message).to_bytes(4, "big")], files)
    connection.sendall(message)
    return int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")


def can_fork(given: dict[str, Any], environment: dict[str, str]) -> bool:
    """Whether a fork would be what ``given``, the arguments of ``Popen._execute_child``, asks for."""
    line = given["args"]
    return (
        isinstance(line, list | tuple)
        and line[0] == sys.executable
        and (line[1] in ("-m", "-c") or str(line[1]).endswith(".py"))
        and not (given["preexec_fn"] or given["pass_fds"] or given["shell"])
        and environment.get("PYTHONUTF8", "1") == "1"  # as a fork is
        and all(environment.get(name) == os.environ.get(name) for name in BEFORE_ANY_PROGRAM)
    )


def serve(connection: socket.socket) -> dict[str, Any]:
    """Fork at each request; return it in the fork, whose standard streams are those that came with it."""
    while True:
        size, files, _, _ = socket.recv_fds(connection, 4, MOST_FILES)
        if not size:
            os._exit(0)
        message = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        reader, writer = os.pipe()
        parent = os.fork()
        if parent == 0:
            program = os.fork()
            if program:
                os.write(writer, program.to_bytes(4, "big"))
                os._exit(0)
            os.close(reader)
            os.close(writer)
            connection.close()
            program = json.loads(message)
            for file in files:
                fcntl.fcntl(file, fcntl.F_DUPFD, ABOVE)
                os.close(file)
            for above, own in enumerate((0, 1, 2, *program.pop("kept", ())), start=ABOVE):
                os.dup2(above, own)
                os.close(above)
            return program
        os.waitpid(parent, 0)  # the program is now a child of who asked for it
        connection.sendall(os.read(reader, 4))
        for file in (reader, writer, *files):
            os.close(file)


def run(line: list[str], environment: dict[str, str], folder: str, new_session: bool) -> None:
    """Do what ``python`` does with the arguments ``line``."""
    if new_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection, theirs = socket.socketpair()
    if os.fork() == 0:  # what the program starts is forked from it as it is now
        connection.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for own in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), own)
        run(**serve(theirs))
        return
    theirs.close()
    subprocess.Popen = forking(connection)  # type: ignore[misc]
    multiprocessing.util.spawnv_passfds = spawning(connection)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    # anew, as those of the parent know what they were connected to
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding, errors or "strict")
    out, err = (io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(
        out, encoding, errors or "strict", line_buffering=out.raw.isatty(), write_through=at_once
    )
    sys.stderr = io.TextIOWrapper(err, encoding, "backslashreplace", line_buffering=True)
    sys.orig_argv = [sys.executable, *line]
    match line:
        case "-m", module, *arguments:
            sys.argv = ["-m", *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case "-c", program, *arguments:
            sys.argv = ["-c", *arguments]
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        case script, *_:
            sys.argv = line
            sys.path[0] = os.path.dirname(os.path.abspath(script))
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    for module in sys.argv[2:]:
        import_module(module)
    logging.root.handlers.clear()  # made by what the modules told; each program configures its own
    run(**serve(socket.socket(fileno=int(sys.argv[1]))))
