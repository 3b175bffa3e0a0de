#!/usr/bin/env bash
# PyYAML 6.0.4: an override inside a chain of << merges is lost if the key has one character, and kept if it has two.
#
# `inner` merges `base` and overrides one key of it; `flat` merges `inner`. YAML's merge rule says that `flat` has the
# overridden value. 6.0.3 gives it for every key; 6.0.4 for keys of two characters and more, but for one-character keys
# the value of `base`. It compares keys by the identity of their strings, and CPython keeps one object per
# one-character string, so the two pairs with the same short key count as one and the first, overridden one wins.
# Seen with Python 3.11: "6.0.3 a: 3 / aa: 3" and "6.0.4 a: 2 / aa: 3".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for version in 6.0.3 6.0.4; do
    python3 -m venv "$place/$version"
    "$place/$version/bin/pip" install --quiet --disable-pip-version-check "pyyaml==$version"
    "$place/$version/bin/python" - "$version" <<'PY' | tee -a "$place/seen"
import sys
import yaml

found = []
for key in ("a", "aa"):
    text = f"base: &base {{{key}: 2}}\ndeep: {{inner: &inner {{<<: *base, {key}: 3}}}}\nflat: {{<<: *inner, other: 4}}\n"
    found.append(f"{key}: {yaml.safe_load(text)['flat'][key]}")
print(sys.argv[1], " / ".join(found))
PY
done
printf '6.0.3 a: 3 / aa: 3\n6.0.4 a: 2 / aa: 3\n' | diff - "$place/seen"
