"""A program for the tests: a Ray of two nodes on this machine, the second of which promises a GPU, and `jobs/adapt.py`
with this program's arguments on it.
"""

from __future__ import annotations

import os
import subprocess
import sys

from crowddist.distributed.runtime import prepare_environment

if __name__ == "__main__":
    prepare_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    try:
        cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20)
        cluster.wait_for_nodes()
        job = subprocess.run([sys.executable, "jobs/adapt.py", *sys.argv[1:]],
                             env={**os.environ, "RAY_ADDRESS": cluster.address}, check=False)
    finally:
        cluster.shutdown()
    sys.exit(job.returncode)
