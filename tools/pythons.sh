#!/usr/bin/env bash
# The Pythons here that are supported and can make a virtual environment, one path per line, oldest first.
set -euo pipefail
# shellcheck disable=SC2016
{ type -ap python3 python3.{11..30} || true; } | while read -r python; do
  "$python" -c '
import ensurepip, os, sys
if sys.version_info >= (3, 11):
    print("%03d.%03d.%03d" % sys.version_info[:3], os.path.realpath(sys.executable))' </dev/null 2>/dev/null || true
done | sort -u | sed 's/^[^ ]* //'
