#!/bin/sh
# Makes the pictures of docs/dev/screens.md from the golden screens.
set -eu
cd "$(dirname "$0")"
for size in 60x15 80x24 120x40 200x50 250x70; do
    python3 svg.py "../../tcp-status/tests/screens/overview-$size.ansi" "screens/$size.svg"
done
