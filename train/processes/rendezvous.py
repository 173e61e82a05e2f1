"""A rendezvous of all processes before `jax.distributed` starts.

JAX aborts a process when another one does not connect in time. The processes first
connect to the coordinator's address by a plain socket, so that a timeout is reported in
one line that names the missing process.
"""

import contextlib
import json
import socket
import time

from train.errors import UserError

Address = tuple[str, int]


def gather(address: Address, count: int, timeout: float) -> None:
    """Process 0: wait for all others, then let them go on.

    Raises:
        UserError: the port is taken, or some did not connect within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    joined: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.create_server(("", address[1]), reuse_port=False)
            )
        except OSError as error:
            raise UserError(
                f"--coordinator {_text(address)}: cannot listen at port {address[1]} "
                f"({error.strerror or error}); allowed: a free port of this machine"
            ) from None
        while len(joined) < count - 1:
            left = deadline - time.monotonic()
            missing = [str(rank) for rank in range(1, count) if rank not in joined]
            if left <= 0:
                raise UserError(
                    f"--coordinator {_text(address)}: process {', '.join(missing)} of "
                    f"{count} did not come within {timeout:g} s; start every process, "
                    "each with its own --process-id, or raise --coordinator-timeout"
                )
            listener.settimeout(left)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                peer, _ = listener.accept()
                stack.enter_context(peer)
                peer.settimeout(5)
                asked = json.loads(peer.makefile().readline(200))
                rank, fault = int(asked["id"]), ""
                if asked["of"] != count:
                    fault = f"--num-processes {asked['of']}: process 0 says {count}"
                elif rank in joined or not 0 < rank < count:
                    fault = f"--process-id {rank}: another process has it"
                if fault:
                    peer.sendall(json.dumps({"fault": fault}).encode() + b"\n")
                else:
                    joined[rank] = peer
        for peer in joined.values():
            with contextlib.suppress(OSError):  # the others will notice
                peer.sendall(b'{"fault": ""}\n')


def join(address: Address, rank: int, count: int, timeout: float) -> None:
    """Another process: find process 0, and wait until all are there.

    Raises:
        UserError: no answer within `timeout` seconds, or process 0 refused this one.
    """
    deadline, answer, reason = time.monotonic() + timeout, "", "nobody listens"
    while not answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise UserError(
                f"--coordinator {_text(address)}: no answer within {timeout:g} s "
                f"({reason}); start process 0 there, check the address, or raise "
                "--coordinator-timeout"
            )
        try:
            with socket.create_connection(address, timeout=left) as connection:
                connection.sendall(
                    json.dumps({"id": rank, "of": count}).encode() + b"\n"
                )
                reason = "others are missing"
                answer = connection.makefile().readline(1000)
        except OSError as error:
            reason = error.strerror or str(error)
        if not answer:
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
    try:
        fault = json.loads(answer)["fault"]
    except (ValueError, KeyError, TypeError):
        fault = f"--coordinator {_text(address)}: something else answers there"
    if fault:
        raise UserError(
            f"{fault}; allowed: the same number everywhere, and an id of its own for "
            "every process"
        )


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
