#!/bin/sh
# Says plainly what this machine lacks before anything is installed. Usage: check_machine.sh PYTHON
python="$1"
missing=""

if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    missing="$missing\n  Python 3.11 or later: '$python' does not run (Debian: apt-get install python3.11 python3.11-venv; or name another with make PYTHON=/path/to/python)"
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        missing="$missing\n  Python 3.11 or later: '$python' is $version (name another with make PYTHON=/path/to/python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        missing="$missing\n  the venv module of $python (Debian: apt-get install python$version-venv)"
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -f "$header" ] || missing="$missing\n  the headers of $python, which annoy compiles with (Debian: apt-get install python$version-dev)"
fi
command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
    missing="$missing\n  a C++ compiler, which annoy needs (Debian: apt-get install g++)"

if [ -n "$missing" ]; then
    printf "This machine lacks:$missing\n" >&2
    exit 1
fi
