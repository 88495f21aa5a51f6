"""The cloud process of MVStylizer: ``python -m mmext.plugins.mvstylizer.cloud``."""

import argparse
import sys
from pathlib import Path

from .system import check_packages


def main() -> None:
    """Parse the command line and run the cloud or one of its commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', type=Path, required=True, help='TOML file of the cloud')
    commands = parser.add_subparsers(dest='command')
    commands.add_parser('serve', help='run the cloud (default)')
    enroll = commands.add_parser('enroll', help='make a one-time enrolment code for a device')
    enroll.add_argument('device', help='name of the device')
    enroll.add_argument('--role', choices=('phone', 'edge'), default='phone')
    stop = commands.add_parser('revoke', help='revoke a token')
    stop.add_argument('token_id', help='id of the token, as in the log of its enrolment')
    commands.add_parser(
        'rollback', help='go back to the version that the current one was made from'
    )
    args = parser.parse_args()
    check_packages('grpc', 'grpc_health', 'cryptography', 'prometheus_client', 'flwr')
    from .system.cloud_main import enroll_code, revoke, roll_back, serve

    if args.command == 'enroll':
        sys.stdout.write(enroll_code(args.config, args.device, args.role) + '\n')
    elif args.command == 'revoke':
        revoke(args.config, args.token_id)
    elif args.command == 'rollback':
        sys.stdout.write(f'{roll_back(args.config)}\n')
    else:
        serve(args.config)


if __name__ == '__main__':
    main()
