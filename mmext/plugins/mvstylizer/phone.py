"""The phone process of MVStylizer: ``python -m mmext.plugins.mvstylizer.phone``."""

import argparse
import json
import sys
from pathlib import Path

from .system import check_packages


def main() -> None:
    """Parse the command line, enrol, delete or stylise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', type=Path, required=True, help='TOML file of the phone')
    parser.add_argument('--enroll', metavar='CODE', help='trade a one-time code for a token, end')
    parser.add_argument(
        '--delete-collected', action='store_true', help='have all edges delete frames of this phone'
    )
    parser.add_argument('video', type=Path, nargs='?', help='input video')
    parser.add_argument('style', type=Path, nargs='?', help='style picture')
    parser.add_argument('output', type=Path, nargs='?', help='output video')
    parser.add_argument('--max-frames', type=int, help='end after so many frames')
    args = parser.parse_args()
    check_packages('grpc', 'cryptography', 'av')
    from .system.phone_main import delete_collected, enroll, stylize_file

    if args.enroll is not None:
        enroll(args.config, args.enroll)
    elif args.delete_collected:
        sys.stdout.write(json.dumps(delete_collected(args.config)) + '\n')
    elif args.output is None:
        parser.error('give a video, a style and an output, or --enroll or --delete-collected')
    else:
        report = stylize_file(args.config, args.video, args.style, args.output, args.max_frames)
        sys.stdout.write(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
