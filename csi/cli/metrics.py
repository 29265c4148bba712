"""``efc metrics``: what the node plugin serves about datasets, of this run directory's keeper, once."""

import argparse
import asyncio

from csi.node.collectors import put_datasets
from csi.node.keeper import Keeper
from csi.observe.exposition import Page


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc metrics``; without a keeper it prints one metric, which says so."""
    page = Page()
    asyncio.run(put_datasets(page, Keeper(parsed.run_dir), run_dir=parsed.run_dir))
    print(page.text(), end="")
    return 0
