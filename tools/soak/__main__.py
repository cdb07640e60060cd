"""python -m tools.soak simulated|real [OPTIONS]"""

from __future__ import annotations

import sys


def main() -> int:
    part, argv = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if part == "real":
        from tools.soak.real_command import main as command
    elif part == "simulated":
        from tools.soak.simulated_command import main as command
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return command(argv)


if __name__ == "__main__":
    raise SystemExit(main())
