"""All that a cluster is made of, built at the same time where one thing does not wait for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lab import aptsite, debs, gobuild, images, nodeimage, rootfs, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.layers import Image


def node_image(version: str, offered: Sequence[str]) -> Image:
    """The node image of one version with the images of all offered versions in it, and their packages beside it."""
    with ThreadPoolExecutor(thread_name_prefix="build") as pool:
        waiting = [pool.submit(rootfs.root), pool.submit(debs.signing_key)]
        # The compiler uses all cores by itself, so one program is built after the other, and meanwhile all the rest.
        gobuild.kind()
        for offer in offered:
            gobuild.kubernetes(offer)
            waiting.append(pool.submit(debs.packages, offer))
            gobuild.etcd(versions.KUBERNETES[offer].etcd)
            gobuild.coredns(versions.KUBERNETES[offer].coredns)
            waiting.append(pool.submit(images.of_version, offer))
        for stage in waiting:
            stage.result()
        repositories = [
            pool.submit(debs.repository, minor, members) for minor, members in aptsite.by_minor(offered).items()
        ]
        node = nodeimage.node(version, offered)
        for repository in repositories:
            repository.result()
        return node
