#!/bin/sh
# Says plainly what this machine lacks before anything is installed. Usage: check_machine.sh PYTHON
python="$1"
missing=""

if ! command -v "$python" >/dev/null 2>&1; then
    missing="$missing\n  Python 3.11 as '$python' (Debian: apt-get install python3.11 python3.11-venv; or make PYTHON=/path/to/python3.11)"
else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "$version" = 3.11 ] || missing="$missing\n  Python 3.11: '$python' is $version (name another with make PYTHON=/path/to/python3.11)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        missing="$missing\n  the venv module of $python (Debian: apt-get install python3.11-venv)"
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -f "$header" ] || missing="$missing\n  the headers of $python, which annoy compiles with (Debian: apt-get install python3.11-dev)"
fi
command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
    missing="$missing\n  a C++ compiler, which annoy needs (Debian: apt-get install g++)"

if [ -n "$missing" ]; then
    printf "This machine lacks:$missing\n" >&2
    exit 1
fi
