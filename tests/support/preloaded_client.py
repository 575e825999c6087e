"""Runs `lathe ARGUMENTS` in a fork of the server of `preloaded.py`: `python -IS preloaded_client.py SOCKET ARGUMENTS`.

It imports little, because it is started for every command. It ends as the command ends, and the command ends with it.
With PYTHONPATH it starts a new interpreter, which reads it.
"""

import json
import os
import socket
import sys


def main() -> None:
    address, *arguments = sys.argv[1:]
    if "PYTHONPATH" in os.environ:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "lathe", *arguments])
    request = json.dumps(["experiments.cli", arguments, os.getcwd(), dict(os.environ), [], True]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        answer = connection.recv(16, socket.MSG_WAITALL)
    if len(answer) < 16:
        sys.exit("the server of preloaded commands has ended; see preloaded.log in the temporary folder")
    status = int.from_bytes(answer[8:], "big")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


main()
