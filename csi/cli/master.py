"""``efc master``: the master of one Dataset (:mod:`csi.master`)."""

import argparse
import asyncio

from csi.base.addresses import joined_address, parse_address
from csi.rpc.server import StopSignal, configure_logging


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc master`` until a signal."""
    configure_logging(parsed.log_level)
    host, port = parse_address(parsed.listen, noun="--listen")
    asyncio.run(_serve(parsed, listen=joined_address(host, port)))
    return 0


async def _serve(parsed: argparse.Namespace, *, listen: str) -> None:
    from csi.master.serving import Master

    stop_signal = StopSignal()
    async with Master(listen=listen, tls=parsed.tls, state=parsed.state) as master:
        ends = [asyncio.ensure_future(end) for end in (stop_signal.wait(), master.failed())]
        ended, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in pending:
            end.cancel()
        for end in ended:
            end.result()
