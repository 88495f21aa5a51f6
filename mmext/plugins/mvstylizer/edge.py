"""The edge process of MVStylizer: ``python -m mmext.plugins.mvstylizer.edge``."""

import argparse
from pathlib import Path

from .system import check_packages


def main() -> None:
    """Parse the command line, enrol or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', type=Path, required=True, help='TOML file of the edge')
    parser.add_argument('--enroll', metavar='CODE', help='trade a one-time code for a token, end')
    args = parser.parse_args()
    check_packages('grpc', 'grpc_health', 'cryptography', 'prometheus_client', 'flwr')
    from .system.edge_main import enroll, serve

    if args.enroll is not None:
        enroll(args.config, args.enroll)
    else:
        serve(args.config)


if __name__ == '__main__':
    main()
