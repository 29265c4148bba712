"""``efc csi probe``: asks a CSI socket whether its process works; for the probes of its container.

Exit status 0 says yes. With ``--alive`` any answer is a yes, also "not ready": restarting a node plugin does not bring
its keeper back.
"""

import argparse

import grpc

from csi._proto import csi_pb2
from csi.base.errors import Code, DriverError
from csi.rpc.server import parse_endpoint


def run(parsed: argparse.Namespace) -> int:
    """One Probe call; raises UNAVAILABLE when the answer is no or none comes."""
    with grpc.insecure_channel(f"unix:{parse_endpoint(parsed.endpoint)}") as channel:
        probe = channel.unary_unary(
            "/csi.v1.Identity/Probe",
            request_serializer=csi_pb2.ProbeRequest.SerializeToString,
            response_deserializer=csi_pb2.ProbeResponse.FromString,
        )
        try:
            reply = probe(csi_pb2.ProbeRequest(), timeout=parsed.timeout)
        except grpc.RpcError as error:
            reason = error.details() if isinstance(error, grpc.Call) else error
            raise DriverError(Code.UNAVAILABLE, f"nobody answers at {parsed.endpoint}: {reason}") from None
    # An answer without a word about readiness means ready (the CSI specification, Probe).
    ready = reply.ready.value or not reply.HasField("ready")
    if not ready and not parsed.alive:
        raise DriverError(Code.UNAVAILABLE, f"{parsed.endpoint} answers that it is not ready")
    return 0
