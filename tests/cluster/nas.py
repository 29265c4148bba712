"""The cluster's NFS server: `python -m tests.cluster.nas --folder DIR --url-file FILE`, until it is killed.

SIGUSR1 kills the server as a crash does, SIGUSR2 starts it again; FILE is there while it answers.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from tests.support.nas import Nas

ADDRESS = "10.77.0.1"  # of the bridge between the nodes; the namespace is the cluster's, so fixed ports are free
NFS_PORT, MOUNT_PORT = 2049, 20048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="holds exports and logs")
    parser.add_argument("--url-file", type=Path, required=True, help="written when the server answers")
    arguments = parser.parse_args()
    orders = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)
    with Nas(address=ADDRESS, folder=arguments.folder, port=NFS_PORT, mount_port=MOUNT_PORT) as nas:
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
