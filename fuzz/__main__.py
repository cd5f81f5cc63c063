"""``python -m fuzz``: all fuzzers, or those named."""

from fuzz.command import main

if __name__ == "__main__":
    main()
