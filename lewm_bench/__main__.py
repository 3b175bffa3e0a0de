"""Run the command line as ``python -m lewm_bench``."""

from lewm_bench.cli.app import main

if __name__ == "__main__":
    main()
