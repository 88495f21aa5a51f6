"""MVStylizer as a system: phone, edge and cloud as three processes over gRPC and TLS.

A phone streams key frames to an edge and makes the frames between them itself; edges keep frames of
consenting phones, retrain their stylizer on them and meet in federated rounds that the cloud runs
by Flower. Paper: https://arxiv.org/abs/2005.11630. Protocol, limits, fallbacks and the checks of
updates are ours. Nothing here is imported before one of the processes starts.
"""

import os
from importlib.util import find_spec

# Flower reads these when it is imported: no telemetry, no search for updates, no installs.
os.environ.update(
    FLWR_TELEMETRY_ENABLED='0',
    FLWR_DISABLE_UPDATE_CHECK='1',
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION='1',
)


def check_packages(*packages: str) -> None:
    """Tell how to install what is missing.

    Raises:
        ImportError: A package is missing; the message names the extra.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(
                f"this process needs {package}: pip install 'mmext[system]'", name=package
            )
