"""The cluster's NFS server: `python -m tests.cluster.nas --folder DIR --url-file FILE`, until it is killed.

SIGUSR1 kills the server as a crash does, SIGUSR2 starts it again; FILE is there while it answers.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from tests.cluster.port_mapper import port_mapper
from tests.support.mounts import small_disk
from tests.support.nas import MOUNT_PROGRAM, NFS_PROGRAM, Export, Nas

ADDRESS = "10.77.0.1"  # of the bridge between the nodes; the namespace is the cluster's, so fixed ports are free
NFS_PORT, MOUNT_PORT = 2049, 20048
SMALL_MIB = 8  # of the export "small", on a file system of its own that tests fill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="holds exports and logs")
    parser.add_argument("--url-file", type=Path, required=True, help="written when the server answers")
    arguments = parser.parse_args()
    orders = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)
    with (
        small_disk(arguments.folder / "small", size_mib=SMALL_MIB) as small,
        Nas(
            address=ADDRESS, folder=arguments.folder, port=NFS_PORT, mount_port=MOUNT_PORT,
            exports=(Export(), Export(name="small", path=small)),
        ) as nas,
        port_mapper(ADDRESS, {NFS_PROGRAM: NFS_PORT, MOUNT_PROGRAM: MOUNT_PORT}),
    ):  # fmt: skip
        while True:
            arguments.url_file.write_text(f"{nas.url}\n")
            while signal.sigwait(orders) is not signal.SIGUSR1:
                pass
            arguments.url_file.unlink()
            nas.kill()
            while signal.sigwait(orders) is not signal.SIGUSR2:
                pass
            nas.start()


if __name__ == "__main__":
    main()
